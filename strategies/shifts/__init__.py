"""Low-rank shifts φ on the residual stream: what every method built on them shares.

`from strategies import shifts` gives a method checks, starts, names and training (`common`); `shift` is φ itself,
`sites` puts it on a model, `positions` chooses its tokens, `averages` averages R, W, b over clients.
"""

from strategies.shifts.common import (
    Triple,
    check_fit,
    checked_sites,
    identity,
    load,
    named,
    parameters,
    state,
    train,
    triple,
)

__all__ = [
    "Triple",
    "check_fit",
    "checked_sites",
    "identity",
    "load",
    "named",
    "parameters",
    "state",
    "train",
    "triple",
]
