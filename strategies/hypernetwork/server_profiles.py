"""The profiles that a server keeps of its users, and what the network reads of one."""

import math
from collections.abc import Mapping

import torch

from strategies.method import Tensors

PROFILE, MEAN, SPREAD, COMPONENTS = "server_profile.", "server_mean", "server_spread", "server_components"
SENT_PROFILE = "shared_profile"
_ROUNDING = 1e-4
"""Relative differences below this are those of rounding."""
_PROFILES_EACH = 4
"""Profiles for each component, at least."""


class Profiles:
    """Keeps every user's profile. Newcomers do not change the mean, the spread and the components."""

    per_user = True

    def __init__(self, state: Tensors, width: int, components: int, noise: float = 0.0) -> None:
        """Start an opening, or a newcomers' introduction.

        Args:
            state: The server's tensors.
            width: Of a profile.
            components: At most so many principal components are kept.
            noise: Standard deviation of what clients add to each number.
        """
        self._state, self._components = dict(state), components
        # A client's noise is hardly ever more than half above its usual length.
        self._longest, self._cut = math.sqrt(width) * (1 + 1.5 * noise) * (1 + _ROUNDING), 0
        self._profiles: list[torch.Tensor] = []
        self.expected = {SENT_PROFILE: torch.zeros(width)}

    def add(self, user: int, shared: Tensors, _num_examples: int) -> None:
        """Keep one user's profile; zeros are no profile.

        A longer one than an honest client sends is cut to that length: it would decide on the mean and the spread, and
        so on what everybody else's profile is read as.
        """
        profile = shared[SENT_PROFILE]
        if (length := float(profile.double().norm())) > self._longest:
            profile = (profile.double() * (self._longest / length)).to(profile.dtype)
            self._cut += 1
        if profile.any():
            self._state[f"{PROFILE}{user}"] = profile
            self._profiles.append(profile)

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Return the state, how many profiles were sent, and how many of them were cut."""
        if MEAN not in self._state:
            width = self.expected[SENT_PROFILE].numel()
            profiles = torch.stack(self._profiles) if self._profiles else torch.zeros(1, width)
            centred = profiles - profiles.mean(dim=0)
            differ = float(centred.norm()) > _ROUNDING * float(profiles.norm())
            self._state[MEAN] = profiles.mean(dim=0)
            # Where no two profiles differ, nothing has been learned from how they do: everybody is read as the mean.
            self._state[SPREAD] = centred.square().mean().sqrt() if differ else torch.tensor(math.inf)
            self._state[COMPONENTS] = whitening(centred if differ else torch.zeros(1, width), self._components)
        return self._state, {"profiles": float(len(self._profiles)), "profiles_cut": float(self._cut)}


def whitening(centred: torch.Tensor, count: int) -> torch.Tensor:
    """Return C, with which Cx has mean 0 and covariance I over profiles x without their mean, [count, width].

    Its rows are the directions in which profiles differ most, by their standard deviations: at most one for every four
    profiles, since other people's profiles lie far out along directions that were fitted to few. The rest are zeros.

    Args:
        centred: Profiles without their mean, [profiles, width].
        count: Rows of C.
    """
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    deviations = values / len(centred) ** 0.5
    kept = min(count, len(centred) // _PROFILES_EACH, int((deviations > _ROUNDING * deviations[0]).sum()))
    # A singular vector's sign is the library's choice.
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    rows = torch.zeros(count, centred.shape[1])
    rows[:kept] = (directions * largest.sign() / deviations[:, None])[:kept]
    return rows


def read(state: Tensors, profile: torch.Tensor | None, width: int, components: int) -> torch.Tensor:
    """Return what the network reads: (e − mean) / spread and z = C(e − mean), zeros for no profile.

    Embeddings of profiles are much alike (their cosine is 0.6 to 0.9): without their mean, what one user changes would
    be every other user's as well. z is at most twice as long as √(rows of C), which collective users have on average,
    so that a profile unlike all others is not extrapolated to.

    Args:
        state: The server's tensors.
        profile: e, [width].
        width: Of e.
        components: Of z.
    """
    if profile is None:
        return torch.zeros(width + components)
    centred, C = profile - state[MEAN], state[COMPONENTS]
    z = C @ centred
    limit = 2 * float(C.any(dim=1).sum()) ** 0.5
    return torch.cat([centred / state[SPREAD], z * min(1.0, limit / max(float(z.norm()), 1e-12))])


def profile_of(state: Tensors, user: int | None) -> torch.Tensor | None:
    """Return a user's profile as it was sent; None if there is none."""
    return state.get(f"{PROFILE}{user}")


def random_profile(state: Tensors, generator: torch.Generator) -> torch.Tensor:
    """Draw one with the collective users' mean and components of their variance: a person who does not exist.

    Without components, a random direction as far from the mean as collective users are.
    """
    C, mean = state[COMPONENTS], state[MEAN]
    if C.any():
        return torch.add(mean, torch.linalg.pinv(C) @ torch.randn(len(C), generator=generator))
    spread = float(state[SPREAD])
    return mean + (spread if math.isfinite(spread) else 0.0) * torch.randn(len(mean), generator=generator)
