"""One round's updates: checked as they come, put aside on disk, judged beside each other, folded in their order."""

import math
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any

from safetensors.torch import load_file, save_file

from configs.conditions import FaultsConfig, RobustConfig
from strategies.method import Aggregator, Tensors
from strategies.robust import Update, apply_rule, find_fault, step_norm


class Updates:
    """Holds a round's updates outside memory until all are there, since a bad one shows beside the others."""

    def __init__(self, folder: Path, aggregator: Aggregator, faults: FaultsConfig, robust: RobustConfig) -> None:
        """Start a round.

        Args:
            folder: For the updates, in the run record; emptied.
            aggregator: The round's.
            faults: When an update is rejected.
            robust: The rule that is applied to the others.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._folder = folder
        self._aggregator = aggregator
        self._ratio, self._least = faults.max_norm_ratio, faults.min_replies
        self._robust = robust
        self._norms: dict[int, float] = {}
        self._examples: dict[int, int] = {}
        self.rejected: dict[int, str] = {}
        """Why, by user."""
        self.accepted = 0
        """How many were not, once folded."""
        self.seconds = 0.0
        """Spent on taking and folding."""

    def take(self, user: int, shared: Tensors, values: Mapping[str, Any]) -> None:
        """Put one client's update aside, or reject it."""
        started = time.monotonic()
        self._take(user, shared, values)
        self.seconds += time.monotonic() - started

    def _take(self, user: int, shared: Tensors, values: Mapping[str, Any]) -> None:
        expected = self._aggregator.expected
        if fault := _fault_in(values) or find_fault(shared, expected, values["examples"]):
            self.rejected[user] = fault
            return
        examples = values["examples"]
        save_file({name: value.contiguous() for name, value in shared.items()}, self._path(user))
        self._norms[user], self._examples[user] = step_norm(shared, expected), examples

    def fold(self, lost: Collection[int] = ()) -> list[int]:
        """Reject what is far beyond the others, give the rest to the aggregator, and return whose turns count.

        Args:
            lost: Users whose updates never arrived.
        """
        started = time.monotonic()
        for user in lost:
            self._norms.pop(user, None)
            self.rejected.pop(user, None)
        if self._norms:
            # Of two the smaller, so that one of two can be beyond the other.
            usual = median_low(self._norms.values())
            for user, norm in list(self._norms.items()):
                if norm > self._ratio * usual > 0:
                    self.rejected[user] = f"its step's norm {norm:.3g} is {norm / usual:.0f} times the cohort's median"
                    del self._norms[user]
        norms = list(self._norms.values())
        rule = apply_rule(self._robust.rule, self._robust.share, self._read(), norms, self._aggregator.expected)
        self.accepted = len(norms)
        added = []
        for update in rule if norms else ():
            self._aggregator.add(update.user, update.shared, update.examples)
            added.append(update.user)
        shutil.rmtree(self._folder)
        self.seconds += time.monotonic() - started
        return added if self._aggregator.per_user else list(self._norms)

    def problem(self, number: int, failed: Sequence[int], asked: int, absence: bool) -> str | None:
        """Say why a folded round cannot be averaged; None if it can.

        Args:
            number: The round.
            failed: Users whose clients failed.
            asked: How many were asked.
            absence: That some are absent or lost is part of the world, and no reason.
        """
        needed = self._least
        short = bool(failed or self.rejected) and (needed is None or self.accepted < needed)
        if not short and (absence or self.accepted >= (needed or asked)):
            return None
        hint = f"; faults.min_replies needs {needed} updates" if needed else ""
        tracebacks = f"; tracebacks are in {self._folder.parent / 'errors.jsonl'}" if failed else ""
        return self.describe(number, failed, asked) + tracebacks + hint

    def describe(self, number: int, failed: Sequence[int], asked: int) -> str:
        """Say in one line whose updates a round lacks, and why.

        Args:
            number: The round.
            failed: Users whose clients failed.
            asked: How many were asked.
        """
        words = []
        if failed:
            users = ", ".join(map(str, failed[:5])) + ", …" * (len(failed) > 5)
            words.append(f"{len(failed)} of {asked} clients failed (user {users})")
        words += [f"the update of user {user} was rejected: {why}" for user, why in list(self.rejected.items())[:3]]
        if len(self.rejected) > 3:
            words.append(f"{len(self.rejected) - 3} more were")
        return f"round {number}: {'; '.join(words)}"

    def _read(self) -> Iterator[Update]:
        for user in self._norms:
            yield Update(user, load_file(self._path(user)), self._examples[user])

    def _path(self, user: int) -> Path:
        return self._folder / f"{user}.safetensors"


def _fault_in(values: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the plain values of a reply."""
    for key in ("examples", "steps"):
        value = values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            return f"{key}={value!r} is no number of {key}"
    for key in ("loss_first", "loss_last"):
        value = values.get(key)
        if not isinstance(value, float) or not math.isfinite(value):
            return f"{key}={value!r} is no loss"
    return None
