"""The best state of stage 1 so far, by held-out collective users (`keep = "best"`)."""

from collections.abc import Mapping

import torch

from strategies.method import Tensors
from strategies.metrics.statistics import LOWER_IS_BETTER

_STATE, _SCORE, _ROUND, _JUDGED = "best.state.", "best.score", "best.round", "best.judged"
_INITIAL = "best.initial"


class BestRound:
    """Remembers the state with the best main metric; of equal ones the first."""

    def __init__(self, checkpoint: Tensors) -> None:
        """Continue from a checkpoint's tensors."""
        self.round = int(checkpoint.get(_ROUND, -1))
        """Of the best state; −1 before any."""
        self.is_initial = bool(checkpoint.get(_INITIAL, False))
        """The best state is that before the first round, with which every method is the bare backbone."""
        self.judged = int(checkpoint.get(_JUDGED, self.round))
        """The last round that was considered."""
        self.score = float(checkpoint.get(_SCORE, 0.0))
        """Its main metric."""
        self.state: Tensors = {
            name.removeprefix(_STATE): value for name, value in checkpoint.items() if name.startswith(_STATE)
        }

    def consider(self, number: int, scores: Mapping[str, float], state: Tensors, initial: bool = False) -> None:
        """Remember a state if it is better.

        Args:
            number: Its round.
            scores: The held-out users' metrics, the main one first.
            state: The server's tensors.
            initial: They are those before the first round.
        """
        self.judged = number
        metric, score = next(iter(scores.items()))
        better = score < self.score if metric in LOWER_IS_BETTER else score > self.score
        if self.round < 0 or better:
            self.round, self.score, self.state, self.is_initial = number, score, dict(state), initial

    def saved(self) -> Tensors:
        """Return what a checkpoint needs."""
        if self.round < 0:
            return {}
        state = {f"{_STATE}{name}": value.clone() for name, value in self.state.items()}
        score = torch.tensor(self.score, dtype=torch.float64)
        numbers = {_ROUND: self.round, _JUDGED: self.judged, _INITIAL: int(self.is_initial)}
        return state | {_SCORE: score} | {name: torch.tensor(number) for name, number in numbers.items()}
