"""Low-rank shifts φ on the residual stream: the code that all methods built on them share.

`from strategies import shifts` provides checks, initial values, names and training (`common`); `shift` is φ itself,
`sites` attaches it to a model, `positions` selects its tokens, `averages` averages R, W, b over clients.
"""

from strategies.shifts.common import (
    Rates,
    Triple,
    check_fit,
    checked_rates,
    checked_sites,
    from_wire,
    identity,
    load,
    named,
    parameters,
    personal_ranks,
    ranks_at,
    start,
    state,
    summed_ranks,
    to_wire,
    train,
    triple,
)
from strategies.spacing import read_sites

__all__ = [
    "Rates",
    "Triple",
    "check_fit",
    "checked_rates",
    "checked_sites",
    "from_wire",
    "identity",
    "load",
    "named",
    "parameters",
    "personal_ranks",
    "ranks_at",
    "read_sites",
    "start",
    "state",
    "summed_ranks",
    "to_wire",
    "train",
    "triple",
]
