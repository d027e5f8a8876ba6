"""One round of stage 1 in progress: its cohort, its replies and its outcome."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from fl_server.record.ledger import Direction
from fl_server.record.reply import ClientReply
from fl_server.simulated_devices import RoundOutcome
from fl_server.updates import Updates
from strategies.method import Aggregator


@dataclass
class TrainingRound:
    """Filled by the steps of `Stage1._train_round`."""

    number: int
    """Starts at 1; 0 is the opening, if the method has one."""
    cohort: list[int]
    aggregator: Aggregator
    updates: Updates
    started: float
    bytes_before: dict[Direction, int]
    """Bytes of all messages before this round, by direction."""
    replies: list[ClientReply] = field(default_factory=list)
    """Without their tensors."""
    outcome: RoundOutcome = field(default_factory=RoundOutcome)
    counted: list[int] = field(default_factory=list)
    """Users whose updates were averaged."""
    averaged: bool = False
    """False if too few updates arrived, so that the shared tensors stay unchanged."""
    problem: str | None = None
    """Why the run cannot continue."""
    figures: dict[str, float] = field(default_factory=dict)
    """Metrics of the aggregation and of a midway evaluation."""
    server_s: float = 0.0

    def row(self, sent: Mapping[Direction, int]) -> dict[str, Any]:
        """Return the round's row for the record.

        Args:
            sent: Bytes of all messages so far, by direction.
        """
        return {
            "round": self.number,
            "cohort": len(self.cohort),
            "replies": sum(reply.error is None and reply.user not in self.outcome.lost for reply in self.replies),
            "failures": len(self.updates.failed),
            "rejected": len(self.updates.rejected),
            "retries": sum(reply.retries for reply in self.replies),
            "seconds": time.monotonic() - self.started,
            "simulated_s": self.outcome.seconds,
            "server_s": self.server_s,
            "server_rss_bytes": psutil.Process().memory_info().rss,
            "bytes_up": sent["up"] - self.bytes_before["up"],
            "bytes_down": sent["down"] - self.bytes_before["down"],
            "loss": self.loss,
            "metrics": list(self.figures.items()),
        }

    @property
    def rejections(self) -> dict[int, str]:
        """Why an update was left out, by user."""
        return {user: f"rejected: {fault}" for user, fault in self.updates.rejected.items()} | self.outcome.lost

    @property
    def loss(self) -> float | None:
        """Mean last loss of the clients whose updates were not left out."""
        reports = [reply.report for reply in self.replies if reply.user not in self.rejections]
        losses = [report.loss_last for report in reports if report and report.loss_last is not None]
        return float(np.mean(losses)) if losses else None
