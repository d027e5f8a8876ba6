"""What the server writes down while a run goes on: the record's tables, its events, its checkpoint."""

import time
from pathlib import Path
from typing import Any

from configs.conditions import DeviceClass
from fl_server.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fl_server.ledger import Ledger, Phase
from fl_server.records import append_line
from fl_server.rounds import ClientReply
from fl_server.tables import CLIENTS, ROUNDS, TableWriter
from strategies.method import Tensors
from strategies.metrics import Statistics, metrics

STAGES = ("base", "collective", "personalised")


class Recorder:
    """The tables, events and checkpoint of one run, opened where its checkpoint left them."""

    def __init__(self, folder: Path) -> None:
        """Open the record.

        Raises:
            InputError: It has no checkpoint.
        """
        self.folder = folder
        self.checkpoint, self.state = load_checkpoint(folder)
        """How far the run is, and the server's tensors then."""
        parts = self.checkpoint.parts
        self.ledger = Ledger(folder, parts.get("ledger", 0))
        self._rounds = TableWriter(folder, "rounds", ROUNDS, parts.get("rounds", 0))
        self._clients = TableWriter(folder, "clients", CLIENTS, parts.get("clients", 0))
        self._before = self.checkpoint.wall_s
        self._started = time.monotonic()

    @property
    def wall_s(self) -> float:
        """Seconds the run has taken, those before it was taken up again included."""
        return self._before + time.monotonic() - self._started

    def commit(self, state: Tensors, **done: Any) -> None:
        """Make what has been done up to now final.

        Args:
            state: The server's.
            done: Fields of the checkpoint that change.
        """
        self.flush()
        tables = {"ledger": self.ledger.table, "rounds": self._rounds, "clients": self._clients}
        parts = {name: table.written for name, table in tables.items()}
        checkpoint = Checkpoint(**{**self.checkpoint.model_dump(), **done, "parts": parts, "wall_s": self.wall_s})
        save_checkpoint(self.folder, checkpoint, state)
        self.checkpoint, self.state = checkpoint, state

    def flush(self) -> None:
        """Write every row."""
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
        left_out: str | None = None,
        device: DeviceClass | None = None,
        simulated_s: float | None = None,
    ) -> None:
        """Add one client's task to `clients.parquet`, and its last traceback to `errors.jsonl` if it failed for good.

        Args:
            number: The round.
            phase: The task.
            reply: The client's.
            left_out: Why what it sent was not averaged.
            device: Its device; more memory than it has is told, not forbidden: other machines take other memory.
            simulated_s: When its reply came, by the virtual clock.
        """
        values = reply.values
        own = {f"{stage}.{key}": value for stage in STAGES for key, value in metrics(statistics(reply, stage)).items()}
        limit, peak = device.memory_mb if device else None, values.get("peak_memory_bytes")
        over = None if limit is None or peak is None else peak > limit * 1_000_000
        if over and device and peak:
            text = f"user {reply.user}: {peak / 1e6:.0f} MB in round {number}, device {device.name} has {limit:g} MB"
            self.event("note", text=text)
        status = left_out or values.get("status", "ok")
        self._clients.add(
            round=number,
            phase=phase,
            user=reply.user,
            examples=values.get("examples"),
            examples_cut=values.get("examples_cut"),
            questions_cut=values.get("questions_cut"),
            steps=values.get("steps"),
            loss_first=values.get("loss_first"),
            loss_last=values.get("loss_last"),
            wall_s=values.get("wall_s"),
            ended_at=values.get("ended_at"),
            partition=values.get("partition_name"),
            peak_memory_bytes=values.get("peak_memory_bytes"),
            status="failed" if reply.error else status,
            retries=len(reply.attempts) - (reply.error is not None),
            device=device.name if device else None,
            over_memory=over,
            simulated_s=simulated_s,
            metrics=list(own.items()),
        )
        if reply.error:
            self.failure(number, phase, reply.user, len(reply.attempts), reply.error)

    def failure(self, number: int, phase: Phase, user: int, attempt: int, error: str) -> None:
        """Write one failed attempt's traceback down, at once and for its owner alone: it may quote a user's text."""
        path = self.folder / "errors.jsonl"
        path.touch(mode=0o600)
        where = {"round": number, "phase": phase, "user": user, "attempt": attempt}
        append_line(path, {**where, "traceback": error})

    def event(self, event: str, **values: object) -> None:
        """Tell whoever follows the run."""
        append_line(self.folder / "events.jsonl", {"event": event, **values})


def statistics(reply: ClientReply, stage: str) -> Statistics:
    """Return a reply's sufficient statistics of one stage."""
    prefix = f"{stage}."
    return {key.removeprefix(prefix): values for key, values in reply.numbers.items() if key.startswith(prefix)}
