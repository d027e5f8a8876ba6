"""One round's updates: checked on arrival, stored on disk, compared with each other, aggregated in a fixed order."""

import os
import tempfile
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median_low

from safetensors.torch import load, save

from configs.environment import FaultsConfig, RobustConfig
from fl_server.record.reply import ClientReply
from strategies.aggregation.robust import Update, apply_rule, find_fault, step_norm
from strategies.method import Aggregator, Tensors

Pool = Callable[[Iterable[Update]], Tensors]
"""Combines what clients sent, one at a time, into what is averaged in their place."""


class Updates:
    """Keeps a round's updates on disk until all have arrived, because outliers only show by comparison."""

    def __init__(
        self,
        folder: Path,
        aggregator: Aggregator,
        faults: FaultsConfig,
        robust: RobustConfig,
        examples: Mapping[int, int],
        pool: Pool | None = None,
        expected: Tensors | None = None,
    ) -> None:
        """Start a round.

        Args:
            folder: A folder on the disk that the updates are kept on, such as the run record.
            aggregator: The round's aggregator.
            faults: The limits beyond which updates are rejected.
            robust: The aggregation rule for the other updates.
            examples: What each client said at the roll call; an update that claims more is rejected.
            pool: Takes the place of rules that compare updates with each other: with differential privacy no user's
                update may decide what becomes of another's, and masked ones cannot be compared.
            expected: What clients send, if it is not what the aggregator adds up.
        """
        self._folder = folder
        # One file without a name, which goes with this object: thousands of small files take long to delete.
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        weakref.finalize(self, self._file.close)  # a round that is not averaged never folds
        self._places: dict[int, tuple[int, int]] = {}
        self._aggregator = aggregator
        self._ratio, self._min_replies = faults.max_norm_ratio, faults.min_replies
        self._robust = robust
        self._at_roll_call = examples
        self._pool = pool
        self._expected = aggregator.expected if expected is None else expected
        self._norms: dict[int, float] = {}
        self._examples: dict[int, int] = {}
        self.failed: list[int] = []
        """Users whose clients failed for good."""
        self._cause = ""
        self.rejected: dict[int, str] = {}
        """The reason, by user."""
        self.accepted = 0
        """Number of updates that were not rejected, set by `settle`."""
        self.seconds = 0.0
        """Seconds spent storing and folding."""

    def add(self, reply: ClientReply) -> None:
        """Store one client's update on disk, reject it, or note that the client failed."""
        started = time.monotonic()
        examples = reply.report.examples if reply.report else 0
        if reply.error is not None:
            self.failed.append(reply.user)
            self._cause = self._cause or reply.cause
        elif fault := self._fault_in_report(reply) or find_fault(reply.shared, self._expected, examples):
            self.rejected[reply.user] = fault
        else:
            self._keep(reply.user, reply.shared)
            self._norms[reply.user] = step_norm(reply.shared, self._expected)
            self._examples[reply.user] = examples
        self.seconds += time.monotonic() - started

    def settle(self, lost: Collection[int] = ()) -> None:
        """Reject steps much longer than the others; what is left is `accepted`.

        Args:
            lost: Users whose updates never arrived.
        """
        for user in lost:
            self._norms.pop(user, None)
            self.rejected.pop(user, None)
        if self._norms and not self._pool:
            # The lower median, so that the longer of two steps can be rejected.
            median = median_low(self._norms.values())
            for user, norm in list(self._norms.items()):
                if norm > self._ratio * median > 0:
                    self.rejected[user] = f"its step's norm {norm:.3g} is {norm / median:.0f} times the cohort's median"
                    del self._norms[user]
        self.accepted = len(self._norms)

    def fold(self) -> list[int]:
        """Aggregate the accepted updates, and return the users whose updates count.

        Call it only for a round that can be averaged, since it unmasks the sum.
        """
        started = time.monotonic()
        norms = list(self._norms.values())
        added = []
        if norms and self._pool:
            self._aggregator.add(-1, self._pool(self._read()), 1)
        elif norms:
            kept = apply_rule(self._robust.rule, self._robust.share, self._read(), norms, self._aggregator.expected)
            for update in kept:
                self._aggregator.add(update.user, update.shared, update.examples)
                added.append(update.user)
        self._file.close()
        self.seconds += time.monotonic() - started
        return added if self._aggregator.per_user else list(self._norms)

    def problem(self, number: int, asked: int, may_lose_clients: bool) -> str | None:
        """Return why a settled round cannot be averaged; None if it can.

        Args:
            number: The round.
            asked: Size of the cohort.
            may_lose_clients: Whether lost clients are expected, so that they are not a reason.
        """
        needed = self._min_replies
        short = bool(self.failed or self.rejected) and (needed is None or self.accepted < needed)
        if not short and (may_lose_clients or self.accepted >= (needed or asked)):
            return None
        hint = f"; faults.min_replies needs {needed} updates" if needed else ""
        tracebacks = f"; tracebacks are in {self._folder / 'errors.jsonl'}" if self.failed else ""
        return self.describe(number, asked) + tracebacks + hint

    def describe(self, number: int, asked: int) -> str:
        """Describe in one line which updates a round lacks, and why.

        Args:
            number: The round.
            asked: Size of the cohort.
        """
        parts = []
        if self.failed:
            users = ", ".join(map(str, self.failed[:5])) + ", …" * (len(self.failed) > 5)
            parts.append(f"{len(self.failed)} of {asked} clients failed (user {users}: {self._cause})")
        rejected = list(self.rejected.items())
        parts += [f"the update of user {user} was rejected: {fault}" for user, fault in rejected[:3]]
        if len(rejected) > 3:
            parts.append(f"{len(rejected) - 3} more were rejected")
        return f"round {number}: {'; '.join(parts)}"

    def _read(self) -> Iterator[Update]:
        for user in self._norms:
            start, length = self._places[user]
            self._file.seek(start)
            yield Update(user, load(self._file.read(length)), self._examples[user])

    def _keep(self, user: int, shared: Tensors) -> None:
        data = save({name: value.contiguous() for name, value in shared.items()})
        self._places[user] = (self._file.seek(0, os.SEEK_END), len(data))
        self._file.write(data)

    def _fault_in_report(self, reply: ClientReply) -> str | None:
        """Return what is wrong with a training report; None if it is valid."""
        if reply.report is None:
            return reply.fault
        missing = [key for key in ("loss_first", "loss_last") if getattr(reply.report, key) is None]
        if missing and reply.report.steps:
            return f"{missing[0]} is missing"
        expected = self._at_roll_call[reply.user]
        claimed = reply.report.examples
        return f"examples={claimed}, but {expected} at the roll call" if claimed > expected else None
