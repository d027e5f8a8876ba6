"""PerFit on a device with injected faults."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from strategies.method import Fit, FitResult, Tensors, TrainRequest, TrainResult
from strategies.perfit import PerFit


class Faulty(PerFit):
    """Has every fault (`kind@where`) once, in the first matching task; a marker file records that it happened."""

    def __init__(
        self,
        faults: list[str],
        markers: str,
        sites: list[int],
        positions: str,
        rank_shared: int,
        rank_private: int,
        joint_private_init: bool,
        aggregation: str,
        seed: int,
    ) -> None:
        super().__init__(sites, positions, rank_shared, rank_private, joint_private_init, aggregation, seed)
        self.faults = {where: kind for kind, where in (fault.split("@") for fault in faults)}
        self.markers = Path(markers)

    def client_train(self, adapter: Any, request: TrainRequest) -> TrainResult:
        trained = super().client_train(adapter, request)
        self._break(f"round{request.round}")
        return trained

    def client_personalize(self, adapter: Any, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        private = super().client_personalize(adapter, shared, fit)
        self._break("personalize")
        return private

    def _break(self, where: str) -> None:
        fault = self.faults.get(where)
        marker = self.markers / where
        if fault is None or marker.exists():
            return
        marker.write_text(str(os.getpid()))
        if fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "hang":
            time.sleep(3600)
        if fault == "raise":
            raise ConnectionError("only this once")
        if fault == "pause":
            time.sleep(8)
