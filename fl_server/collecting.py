"""Collects a round's updates: sends the cohort the shared tensors and takes in what comes back, masked or not."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.schema import RunConfig
from fl_server.coding import ServerCoding
from fl_server.exchange import ClientTask
from fl_server.privacy import RunPrivacy
from fl_server.record.ledger import Direction
from fl_server.secure_round import SecureRound, TooFewUsers
from fl_server.simulated_devices import DeviceModel, DeviceTask
from fl_server.training_round import TrainingRound
from fl_server.updates import Updates
from fl_server.user_tasks import UserTasks
from strategies.method import Method, Tensors
from strategies.wire import Payload, Phase


@dataclass(frozen=True)
class Collector:
    """What stays the same in all rounds of a run."""

    folder: Path
    """The run record."""
    config: RunConfig
    method: Method
    coding: ServerCoding
    tasks: UserTasks
    devices: DeviceModel
    privacy: RunPrivacy | None
    examples: Mapping[int, int]
    """Every collective user's examples at the roll call, by partition id."""

    def collect(
        self,
        number: int,
        cohort: list[int],
        state: Tensors,
        last_turns: Mapping[int, int],
        bytes_before: dict[Direction, int],
    ) -> TrainingRound:
        """Run one round's tasks; the updates are then ready to be averaged.

        Args:
            number: The round; 0 is the opening.
            cohort: Its users.
            state: The server's tensors.
            last_turns: The last round in which a user's update was counted, by user.
            bytes_before: Bytes of all messages before the round.
        """
        started = time.monotonic()
        aggregator = self.method.server_aggregator(state, number)
        secure = self._secure_round(number, aggregator.expected)
        pool = self.privacy.pool_of(number, aggregator.expected, len(cohort)) if self.privacy else None
        updates = Updates(
            self.folder,
            aggregator,
            self.config.faults,
            self.config.robust,
            self.examples,
            secure.pool if secure else pool,
            secure.expected if secure else None,
        )
        this = TrainingRound(number, cohort, aggregator, updates, started, bytes_before)
        self.coding.advance(number, state)
        task = self._task(number, state, last_turns, secure)
        for answer in self.tasks.ask(task, self._open(secure, cohort, updates) if secure else cohort):
            reply = self.coding.decoded(answer, state, number)
            updates.add(reply)
            # Only reports stay in memory, and only those of accepted replies.
            this.replies.append(reply.without_tensors(keep_report=reply.user not in updates.rejected))
        device_tasks = [
            DeviceTask(reply.user, reply.down.payload, reply.up.payload, reply.report.steps)
            for reply in this.replies
            if reply.report
        ]
        this.outcome = self.devices.close(number, device_tasks, self.config.cohort if number else len(device_tasks))
        updates.settle(this.outcome.lost)
        return this

    def _open(self, secure: SecureRound, cohort: list[int], updates: Updates) -> list[int]:
        """Return the users who are asked to train: none, if devices that come and go leave too few."""
        try:
            return secure.open(cohort, updates.add)
        except TooFewUsers:
            if not self.devices.may_lose_clients:
                raise
            return []

    def _task(
        self, number: int, state: Tensors, last_turns: Mapping[int, int], secure: SecureRound | None
    ) -> ClientTask:
        def send(user: int, again: bool) -> Payload:
            return self.coding.payload(state, user, last_turns.get(user, 0), whole=again)

        local = {"noise_multiplier": self.privacy.multiplier} if self.privacy else {}

        def values(user: int) -> dict[str, object]:
            masking = secure.values_for(user) if secure else {}
            return {"last_turn": last_turns.get(user, -1), **local, **masking}

        return ClientTask(number, Phase.TRAIN, send if number else None, values)

    def _secure_round(self, number: int, start: Tensors) -> SecureRound | None:
        if not self.config.secure.aggregation:
            return None
        opened = self.folder / ".opened"
        return SecureRound(self.config, self.method, number, start, self.examples, self.tasks.recorded, opened)
