"""User-level differential privacy of stage 1: what it costs, and the noisy mean in a run.

The accountant follows what the rounds really do: each draws `cohort` users without replacement, and neighbouring data
sets differ in one user's data (replace-one). Then a round's sum changes by at most 2C, so that noise of deviation z·C
is the Gaussian mechanism with multiplier z/2.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

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
_NONE: Mapping[int, int] = MappingProxyType({})


@cache
def epsilon_of(
    multiplier: float,
    releases: int,
    openings: int,
    delta: float,
    drawn: tuple[int, int] | None,
    again: tuple[int, ...] = (),
) -> float | None:
    """Return ε of some releases, by Rényi differential privacy (dp-accounting); None: infinite, without noise.

    Args:
        multiplier: z.
        releases: Rounds of noise on a sum; for local noise, one user's noisy updates.
        openings: Openings, which have all users.
        delta: δ.
        drawn: N and n if a round draws n of N users uniformly; None assumes no amplification, a valid upper bound.
        again: Rounds, not among `releases`, that were released several times, by how often. Their users were drawn
            once, so that k releases are one draw with noise of multiplier z/√k.
    """
    import dp_accounting as dp
    from dp_accounting import rdp

    if not releases + openings + len(again):
        return 0.0
    if not multiplier:
        return None
    accountant = rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)

    def drawing(times: int) -> Any:
        noise = dp.GaussianDpEvent(multiplier / 2 / math.sqrt(times))
        return dp.SampledWithoutReplacementDpEvent(*drawn, noise) if drawn else noise

    rounds = [(drawing(1), releases), *((drawing(times), 1) for times in again)]
    for mechanism, count in (*rounds, (dp.GaussianDpEvent(multiplier / 2), openings)):
        if count:
            accountant.compose(mechanism, count)
    return float(accountant.get_epsilon(delta))


def most_turns(cohorts: Iterable[Sequence[int]]) -> list[int]:
    """Return the largest number of turns of one user after each round, from 0 on."""
    turns, most = Counter[int](), [0]
    for cohort in cohorts:
        turns.update(cohort)
        most.append(max(turns.values(), default=0))
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

    def epsilon(self, multiplier: float, number: int, repeats: Mapping[int, int] = _NONE) -> float | None:
        """Return ε after a round with noise multiplier z; None if it is infinite.

        Args:
            multiplier: z.
            number: The round.
            repeats: How often a round was released, for those released with several sets of updates.
        """
        again = {repeated: times for repeated, times in repeats.items() if repeated}
        once = self._releases[number] - len([repeated for repeated in again if repeated <= number])
        openings = repeats.get(0, 1) if self._openings else 0
        return epsilon_of(multiplier, once, openings, self._config.delta, self._drawn, tuple(sorted(again.values())))

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

    def last_round(self, multiplier: float, repeats: Mapping[int, int] = _NONE) -> int:
        """Return the last round that keeps to the target ε; −1 if none does. `repeats` as in `epsilon`."""
        target, last = self._config.target_epsilon, len(self._releases) - 1
        if target is None:
            return last
        low, high = -1, last
        while low < high:
            middle = (low + high + 1) // 2
            spent = self.epsilon(multiplier, middle, repeats)
            low, high = (middle, high) if spent is not None and spent <= target else (low, middle - 1)
        return low


class BudgetSpent(Exception):
    """A round cannot be released a second time within the target ε."""


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
            turns: The largest number of turns of one user after each round, from 0 on.
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
        if self._budget.last_round(self.multiplier) < min(1, len(turns) - 1):
            raise InputError(
                f"privacy.target_epsilon={config.privacy.target_epsilon:g}: the first round would exceed it with "
                f"noise_multiplier={self.multiplier:g}"
            )
        self.clip = self._clip_used = float((checkpoint or {}).get(_CLIP, config.privacy.clip))

    @property
    def last_round(self) -> int:
        """The last round of stage 1 that keeps to the target ε, after what was released so far."""
        return self._budget.last_round(self.multiplier, self._repeats())

    def spent(self, number: int) -> PrivacyPart:
        """Return what has been spent after a round; all rounds up to it count, released or abandoned."""
        return PrivacyPart(
            kind=self.config.kind,
            epsilon=self._budget.epsilon(self.multiplier, number, self._repeats()),
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

    def pool_of(self, number: int, start: Tensors, asked: int) -> Callable[[Iterable[Update]], Tensors]:
        """Return what forms a round's mean of shared tensors, with noise unless the clients have added it.

        Args:
            number: The round; 0 is an opening.
            start: Where the clients started from.
            asked: Number of users that were asked.
        """
        count = self._cohort if number else asked
        pool = self._mean if self.config.kind == "local" else self._pool
        return lambda updates: pool(number, start, (update.shared for update in updates), count)

    def _mean(self, _number: int, start: Tensors, updates: Iterable[Tensors], count: int) -> Tensors:
        """Form the mean over `count` users of updates that have their noise already."""
        begin = self._method.to_wire(start)
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in begin.items()}
        for update in updates:
            for name, value in minus(self._method.to_wire(update), begin).items():
                total[name] += value
        return self._method.from_wire(plus(begin, {name: (value / count).float() for name, value in total.items()}))

    def _pool(self, number: int, start: Tensors, updates: Iterable[Tensors], count: int) -> Tensors:
        """Form the mean over `count` users, and adapt C for the next round.

        Raises:
            BudgetSpent: The round was released before, with other updates, and a second release is too much.
        """
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
        """Note a release before anything of it is sent; raises as `_pool`."""
        line = f"{number} {hashlib.sha256(mark.encode()).hexdigest()}\n"
        if self._releases and line not in self._noted():
            times, target = self._times()[number], self.config.target_epsilon
            if times and target is not None:
                spent = self._budget.epsilon(self.multiplier, number, {**self._repeats(), number: times + 1})
                if spent is None or spent > target:
                    raise BudgetSpent
            with self._releases.open("a", encoding="utf-8") as file:
                file.write(line)

    def _noted(self) -> list[str]:
        noted = self._releases and self._releases.is_file()
        return self._releases.read_text(encoding="utf-8").splitlines(keepends=True) if self._releases and noted else []

    def _times(self) -> Counter[int]:
        """Return with how many sets of updates each round was released; more than one after an interruption."""
        return Counter(int(line.split()[0]) for line in self._noted())

    def _repeats(self) -> dict[int, int]:
        return {number: times for number, times in self._times().items() if times > 1}

    def saved(self) -> Tensors:
        """Return what a checkpoint needs."""
        return {_CLIP: torch.tensor(self.clip, dtype=torch.float64)}
