"""Writes a run record during the run: its tables, events and checkpoint."""

import time
from pathlib import Path
from typing import Any

from configs.environment import DeviceClass
from configs.files import append_line
from fl_server.record.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fl_server.record.ledger import Ledger
from fl_server.record.reply import ClientReply
from fl_server.record.stage_2 import METHOD
from fl_server.record.tables import CLIENTS, ROUNDS, TableWriter
from strategies.method import Tensors
from strategies.metrics.points import EvaluationPoint
from strategies.metrics.statistics import metrics
from strategies.wire import Phase

_REPORTED = (
    *("examples", "examples_cut", "questions_cut", "steps", "loss_first", "loss_last"),
    *("wall_s", "ended_at", "peak_memory_bytes"),
)
"""Columns of `clients.parquet` that are copied from a client's report."""


class RecordWriter:
    """The tables, events and checkpoint of one run, opened at its checkpoint."""

    def __init__(self, folder: Path) -> None:
        """Open the record.

        Raises:
            InputError: The record has no checkpoint.
        """
        self.folder = folder
        self.checkpoint, self.state = load_checkpoint(folder)
        """The run's progress, and the server's tensors at that point."""
        parts = self.checkpoint.parts
        self.ledger = Ledger(folder, parts.get("ledger", 0))
        self._rounds = TableWriter(folder, "rounds", ROUNDS, parts.get("rounds", 0))
        self._clients = TableWriter(folder, "clients", CLIENTS, parts.get("clients", 0))
        self._before = self.checkpoint.wall_s
        self._started = time.monotonic()

    @property
    def wall_s(self) -> float:
        """Seconds the run has taken, including those before a resume."""
        return self._before + time.monotonic() - self._started

    def commit(self, state: Tensors, **done: Any) -> None:
        """Write a checkpoint: work up to this point is never repeated.

        Args:
            state: The server's tensors.
            done: Fields of the checkpoint that change.
        """
        self.flush()
        tables = {"ledger": self.ledger.table, "rounds": self._rounds, "clients": self._clients}
        parts = {name: table.written for name, table in tables.items()}
        checkpoint = Checkpoint(**{**self.checkpoint.model_dump(), **done, "parts": parts, "wall_s": self.wall_s})
        self.checkpoint, self.state = save_checkpoint(self.folder, checkpoint, state), state

    def flush(self) -> None:
        """Write all buffered rows."""
        for table in (self.ledger.table, self._rounds, self._clients):
            table.flush()

    def round(self, **row: Any) -> None:
        """Add a row to `rounds.parquet`."""
        self._rounds.add(**row)

    def client(
        self,
        number: int,
        phase: Phase,
        reply: ClientReply,
        rejection: str | None = None,
        device: DeviceClass | None = None,
        arrived_at_s: float | None = None,
    ) -> None:
        """Add one client's task to `clients.parquet`, and its last traceback to `errors.jsonl` if it failed for good.

        Args:
            number: The round.
            phase: The task's phase.
            reply: The client's reply.
            rejection: Why its update was not averaged.
            device: Its simulated device. Using more memory than it has is reported, not forbidden, because memory use
                differs between machines.
            arrived_at_s: When its reply arrived on the virtual clock.
        """
        report = reply.report.model_dump() if reply.report else {}
        peak, limit = report.get("peak_memory_bytes"), device.memory_mb if device else None
        over_memory = None if limit is None or peak is None else peak > limit * 1_000_000
        if over_memory and device and peak:
            text = f"user {reply.user}: {peak / 1e6:.0f} MB in round {number}, device {device.name} has {limit:g} MB"
            self.event("note", text=text)
        scores = {
            f"{point}.{key}": value
            for point in EvaluationPoint
            for key, value in metrics(reply.statistics_at(point)).items()
        }
        names, values = report.get("figure_names") or [], report.get("figure_values") or []
        figures = {f"{METHOD}{name}": value for name, value in zip(names, values, strict=True)}
        self._clients.add(
            round=number,
            phase=str(phase),
            user=reply.user,
            partition=report.get("partition_name"),
            status="failed" if reply.error else rejection or report.get("status", "ok"),
            retries=reply.retries,
            device=device.name if device else None,
            over_memory=over_memory,
            simulated_s=arrived_at_s,
            metrics=list((scores | figures).items()),
            **{key: report.get(key) for key in _REPORTED},
        )
        if reply.error:
            self.failure(number, phase, reply.user, len(reply.attempts), reply.error)

    def failure(self, number: int, phase: Phase, user: int, attempt: int, error: str) -> None:
        """Write one failed attempt's traceback at once, readable by the owner only: it may quote a user's text."""
        path = self.folder / "errors.jsonl"
        path.touch(mode=0o600)
        where = {"round": number, "phase": str(phase), "user": user, "attempt": attempt}
        append_line(path, {**where, "traceback": error})

    def event(self, event: str, **values: object) -> None:
        """Append a line to `events.jsonl`, which progress displays and trackers read."""
        append_line(self.folder / "events.jsonl", {"event": event, **values})
