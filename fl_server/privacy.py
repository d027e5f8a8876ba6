"""User-level differential privacy of stage 1: what it costs, and the noisy mean in a run.

The accountant follows what the rounds really do: each draws `cohort` users without replacement, and neighbouring data
sets differ in one user's data (replace-one). Then a round's sum changes by at most 2C, so that noise of deviation z·C
is the Gaussian mechanism with multiplier z/2.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from configs.errors import InputError
from configs.privacy import PrivacyConfig
from configs.schema import RunConfig
from configs.seeds import derive_entropy
from fl_server.record.schema import PrivacyPart
from strategies.aggregation.private_mean import clipped_sum, digest, next_clip, noisy_mean
from strategies.aggregation.robust import Update
from strategies.codecs import minus, plus
from strategies.method import Method, Tensors

_CLIP = "privacy.clip"
_MOST_NOISE = 1e4


@cache
def epsilon_of(
    multiplier: float, releases: int, openings: int, delta: float, drawn: tuple[int, int] | None
) -> float | None:
    """Return ε of some releases, by Rényi differential privacy (dp-accounting); None: infinite, without noise.

    Args:
        multiplier: z.
        releases: Rounds of noise on a sum; for local noise, one user's noisy updates.
        openings: Openings, which have all users.
        delta: δ.
        drawn: N and n if a round draws n of N users uniformly; None assumes no amplification, a valid upper bound.
    """
    import dp_accounting as dp
    from dp_accounting import rdp

    if not releases + openings:
        return 0.0
    if not multiplier:
        return None
    accountant = rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    gaussian = dp.GaussianDpEvent(multiplier / 2)
    event = dp.SampledWithoutReplacementDpEvent(*drawn, gaussian) if drawn else gaussian
    for mechanism, count in ((event, releases), (gaussian, openings)):
        if count:
            accountant.compose(mechanism, count)
    return float(accountant.get_epsilon(delta))


def most_turns(cohorts: Iterable[Sequence[int]]) -> list[int]:
    """Return how often the user that is drawn most often was drawn, after each round from 0 on."""
    turns, most = Counter[int](), [0]
    for cohort in cohorts:
        turns.update(cohort)
        most.append(max(turns.values()))
    return most


class Budget:
    """ε over the rounds of a run, and the noise that keeps to a target."""

    def __init__(
        self, config: PrivacyConfig, releases: Sequence[int], openings: int, drawn: tuple[int, int] | None
    ) -> None:
        """Set up.

        Args:
            config: δ and the target.
            releases: How many releases concern a user after each round, from round 0 on.
            openings: 1 if stage 1 opens with all users.
            drawn: As in `epsilon_of`.

        Raises:
            InputError: dp-accounting is not installed.
        """
        if find_spec("dp_accounting") is None:
            raise InputError("privacy.kind needs dp-accounting: pip install 'fedperfit[privacy]'")
        self._config, self._releases, self._openings, self._drawn = config, releases, openings, drawn

    def epsilon(self, multiplier: float, number: int, repeated: int = 0) -> float | None:
        """Return ε after a round with noise multiplier z; None if it is infinite.

        Args:
            multiplier: z.
            number: The round.
            repeated: Rounds that were released a second time, with other updates.
        """
        releases = self._releases[number] + repeated
        return epsilon_of(multiplier, releases, self._openings, self._config.delta, self._drawn)

    def multiplier(self) -> float:
        """Return the least z (to 0.1 %) with which all rounds keep to the target ε.

        Raises:
            InputError: No z below 10,000 does.
        """
        target, last = self._config.target_epsilon or 0.0, len(self._releases) - 1

        def keeps(multiplier: float) -> bool:
            spent = self.epsilon(multiplier, last)
            return spent is not None and spent <= target

        low, high = 0.0, 1.0
        while not keeps(high):
            low, high = high, 2 * high
            if high > _MOST_NOISE:
                raise InputError(
                    f"privacy.target_epsilon={target:g}: {last} rounds cannot keep to it with δ = "
                    f"{self._config.delta:g} and any noise below {_MOST_NOISE:g} times the clip"
                )
        while high - low > 1e-3 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if keeps(middle) else (middle, high)
        return high

    def last_round(self, multiplier: float) -> int:
        """Return the last round that keeps to the target ε; −1 if none does."""
        target, last = self._config.target_epsilon, len(self._releases) - 1
        if target is None:
            return last
        low, high = -1, last
        while low < high:
            middle = (low + high + 1) // 2
            spent = self.epsilon(multiplier, middle)
            low, high = (middle, high) if spent is not None and spent <= target else (low, middle - 1)
        return low


class RunPrivacy:
    """The privacy of one run's stage 1."""

    def __init__(
        self,
        config: RunConfig,
        method: Method,
        users: int,
        turns: Sequence[int],
        secret: int | None = None,
        checkpoint: Tensors | None = None,
        releases: Path | None = None,
    ) -> None:
        """Settle the noise and the number of rounds.

        Args:
            config: The run's config, with `privacy.kind`.
            method: The method.
            users: Collective users that can be drawn.
            turns: How often the user that is drawn most often was drawn, after each round from 0 on.
            secret: Replaces the run's seed for noise if others know the seed; they also know who is drawn then.
            checkpoint: Tensors to continue from.
            releases: A file that remembers what was released, so that a repeated round is not a second one for free.

        Raises:
            InputError: The target ε cannot be kept.
        """
        self.config, self._method = config.privacy, method
        self._secret = config.seed if secret is None else secret
        self._releases = releases
        self._cohort = config.cohort
        central = config.privacy.kind == "central"
        # Sampling amplifies privacy only if it is uniform (devices come and go) and secret (devices know the seed).
        uniform = central and config.cohort < users and not config.devices.classes and secret is None
        self._budget = Budget(
            config.privacy,
            range(len(turns)) if central else turns,
            int(method.first_round == 0),
            (users, config.cohort) if uniform else None,
        )
        given = config.privacy.noise_multiplier
        self.multiplier = self._budget.multiplier() if given is None else given
        self.last_round = self._budget.last_round(self.multiplier)
        """The last round of stage 1 that keeps to the target ε."""
        if self.last_round < min(1, len(turns) - 1):
            raise InputError(
                f"privacy.target_epsilon={config.privacy.target_epsilon:g}: the first round would exceed it with "
                f"noise_multiplier={self.multiplier:g}"
            )
        self.clip = self._clip_used = float((checkpoint or {}).get(_CLIP, config.privacy.clip))

    def spent(self, number: int) -> PrivacyPart:
        """Return what has been spent after a round; all rounds up to it count, released or abandoned."""
        return PrivacyPart(
            kind=self.config.kind,
            epsilon=self._budget.epsilon(self.multiplier, number, self._repeated()),
            delta=self.config.delta,
            noise_multiplier=self.multiplier,
            clip=self.clip,
            rounds=number,
        )

    def figures(self, number: int) -> dict[str, float]:
        """Return a round's figures for the record."""
        spent = self.spent(number)
        epsilon = {} if spent.epsilon is None else {"privacy.epsilon": spent.epsilon}
        return {"privacy.clip": self._clip_used, **epsilon}

    def pool_of(self, number: int, start: Tensors, asked: int) -> Callable[[Iterable[Update]], Tensors] | None:
        """Return what forms a round's noisy mean of shared tensors; None if clients add the noise.

        Args:
            number: The round; 0 is an opening.
            start: Where the clients started from.
            asked: Number of users that were asked.
        """
        if self.config.kind == "local":
            return None
        count = self._cohort if number else asked
        return lambda updates: self._pool(number, start, (update.shared for update in updates), count)

    def _pool(self, number: int, start: Tensors, updates: Iterable[Tensors], count: int) -> Tensors:
        """Form the mean over `count` users, and adapt C for the next round."""
        begin = self._method.to_wire(start)
        changes = (minus(self._method.to_wire(update), begin) for update in updates)
        total, below, arrived = clipped_sum(changes, begin, self.clip)
        # A repeated round has the same noise for the same sum only: otherwise the difference of two would have none.
        mark = digest(total)
        self._remember(number, mark)
        generator = np.random.default_rng(derive_entropy(self._secret, "privacy", number, mark))
        multiplier, deviation = self.config.split(self.multiplier, count)
        change = noisy_mean(total, multiplier * self.clip, count, generator)
        self._clip_used = self.clip
        if self.config.clip_quantile is not None:
            self.clip = next_clip(self.clip, self.config.clip_quantile, below, arrived, count, deviation, generator)
        return self._method.from_wire(plus(begin, change))

    def _remember(self, number: int, mark: str) -> None:
        """Note a release before anything of it is sent."""
        line = f"{number} {hashlib.sha256(mark.encode()).hexdigest()}\n"
        if self._releases and line not in self._noted():
            with self._releases.open("a", encoding="utf-8") as file:
                file.write(line)

    def _noted(self) -> list[str]:
        noted = self._releases and self._releases.is_file()
        return self._releases.read_text(encoding="utf-8").splitlines(keepends=True) if self._releases and noted else []

    def _repeated(self) -> int:
        """Return how many rounds were released again with other updates, after a run was interrupted."""
        lines = self._noted()
        return len(lines) - len({line.split()[0] for line in lines})

    def saved(self) -> Tensors:
        """Return what a checkpoint needs."""
        return {_CLIP: torch.tensor(self.clip, dtype=torch.float64)}
