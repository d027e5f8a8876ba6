"""One round's updates: checked as they come, put aside on disk, judged beside each other, folded in their order."""

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from statistics import median

from safetensors.torch import load_file, save_file

from configs.conditions import FaultsConfig, RobustConfig
from strategies.method import Aggregator, Tensors
from strategies.robust import Update, apply_rule, find_fault, step_norm


class Updates:
    """Holds a round's updates outside memory until all are there, since a bad one shows beside the others."""

    def __init__(self, folder: Path, aggregator: Aggregator, faults: FaultsConfig, robust: RobustConfig) -> None:
        """Start a round.

        Args:
            folder: For the updates; emptied.
            aggregator: The round's.
            faults: When an update is rejected.
            robust: The rule that is applied to the others.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._folder = folder
        self._aggregator = aggregator
        self._ratio = faults.max_norm_ratio
        self._robust = robust
        self._norms: dict[int, float] = {}
        self._examples: dict[int, int] = {}
        self.rejected: dict[int, str] = {}
        """Why, by user."""

    def take(self, user: int, shared: Tensors, examples: int) -> None:
        """Put one client's update aside, or reject it."""
        expected = self._aggregator.expected
        if fault := find_fault(shared, expected, examples):
            self.rejected[user] = fault
            return
        save_file({name: value.contiguous() for name, value in shared.items()}, self._path(user))
        self._norms[user], self._examples[user] = step_norm(shared, expected), examples

    def fold(self, lost: Collection[int] = ()) -> int:
        """Reject what is far beyond the others, give the rest to the aggregator, and return how many those are.

        Args:
            lost: Users whose updates never arrived.
        """
        for user in lost:
            self._norms.pop(user, None)
            self.rejected.pop(user, None)
        if self._norms:
            usual = median(self._norms.values())
            for user, norm in list(self._norms.items()):
                if norm > self._ratio * usual > 0:
                    self.rejected[user] = f"its step's norm {norm:.3g} is {norm / usual:.0f} times the cohort's median"
                    del self._norms[user]
        norms = list(self._norms.values())
        rule = apply_rule(self._robust.rule, self._robust.share, self._read(), norms, self._aggregator.expected)
        for update in rule if norms else ():
            self._aggregator.add(update.user, update.shared, update.examples)
        shutil.rmtree(self._folder)
        return len(norms)

    def _read(self) -> Iterator[Update]:
        for user in self._norms:
            yield Update(user, load_file(self._path(user)), self._examples[user])

    def _path(self, user: int) -> Path:
        return self._folder / f"{user}.safetensors"
