"""The profiles that a server keeps of its users, and what the network reads of one."""

from collections.abc import Mapping

import torch

from strategies.method import Tensors

PROFILE, MEAN, SPREAD, COMPONENTS = "server_profile.", "server_mean", "server_spread", "server_components"
SENT_PROFILE = "shared_profile"


class Profiles:
    """Keeps every user's profile. Newcomers do not change the mean, the spread and the components."""

    per_user = True

    def __init__(self, state: Tensors, width: int, components: int) -> None:
        """Start an opening, or a newcomers' introduction."""
        self._state, self._components = dict(state), components
        self._came: list[torch.Tensor] = []
        self.expected = {SENT_PROFILE: torch.zeros(width)}

    def add(self, user: int, shared: Tensors, _num_examples: int) -> None:
        """Keep one user's profile; zeros are no profile."""
        profile = shared[SENT_PROFILE]
        if profile.any():
            self._state[f"{PROFILE}{user}"] = profile
            self._came.append(profile)

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Return the state, and how many profiles came."""
        if MEAN not in self._state and self._came:
            came = torch.stack(self._came)
            self._state[MEAN] = came.mean(dim=0)
            apart = came - self._state[MEAN]
            spread = apart.square().mean().sqrt()
            self._state[SPREAD] = spread if spread > 0 else torch.ones(())
            self._state[COMPONENTS] = whitening(apart, self._components)
        return self._state, {"profiles": float(len(self._came))}


def whitening(apart: torch.Tensor, count: int) -> torch.Tensor:
    """Return C, with which Cx has mean 0 and covariance I over profiles x without their mean, [count, width].

    Its rows are the directions in which profiles differ most, by their standard deviations; those in which they do not
    differ are zeros.

    Args:
        apart: Profiles without their mean, [profiles, width].
        count: Rows of C.
    """
    _, values, directions = torch.linalg.svd(apart, full_matrices=False)
    deviations = values / len(apart) ** 0.5
    kept = min(count, int((deviations > 1e-3 * deviations[0]).sum()))
    # A singular vector's sign is the library's choice.
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    found = torch.zeros(count, apart.shape[1])
    found[:kept] = (directions * largest.sign() / deviations[:, None])[:kept]
    return found


def read(state: Tensors, profile: torch.Tensor | None, width: int, components: int) -> torch.Tensor:
    """Return what the network reads: (e − mean) / spread and z = C(e − mean), zeros for no profile.

    Embeddings of profiles are much alike (their cosine is 0.6 to 0.9): without their mean, what one user changes would
    be every other user's as well. z is no longer than twice what is usual, so that a profile unlike all others is not
    extrapolated to.

    Args:
        state: The server's tensors.
        profile: e, [width].
        width: Of e.
        components: Of z.
    """
    if profile is None:
        return torch.zeros(width + components)
    apart = profile - state[MEAN]
    z = state[COMPONENTS] @ apart
    longest = 2 * components**0.5
    return torch.cat([apart / state[SPREAD], z * min(1.0, longest / max(float(z.norm()), 1e-12))])


def profile_of(state: Tensors, user: int | None) -> torch.Tensor | None:
    """Return a user's profile as it was sent; None if there is none."""
    return state.get(f"{PROFILE}{user}")


def users_known(state: Tensors) -> list[int]:
    """Return the users with a profile."""
    return sorted(int(name.removeprefix(PROFILE)) for name in state if name.startswith(PROFILE))


def random_profile(state: Tensors, generator: torch.Generator) -> torch.Tensor | None:
    """Draw one with the mean and the covariance of users' profiles: that of a person who does not exist."""
    if not (known := users_known(state)):
        return None
    apart = torch.stack([state[f"{PROFILE}{user}"] for user in known]) - state[MEAN]
    weights = torch.randn(len(known), generator=generator) / len(known) ** 0.5
    return torch.add(state[MEAN], weights @ apart)
