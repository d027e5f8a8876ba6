"""Held-out collective users, who judge the shared tensors during stage 1 (`users.held_out`)."""

from configs.schema import RunConfig
from fl_server.best_round import BestRound
from fl_server.coding import ServerCoding
from fl_server.exchange import ClientTask
from fl_server.newcomers import Newcomers
from fl_server.user_tasks import UserTasks
from strategies.method import Tensors
from strategies.metrics.points import EvaluationPoint
from strategies.metrics.statistics import metrics, pool
from strategies.wire import Phase


class Judges:
    """The held-out users of one run."""

    def __init__(self, config: RunConfig, tasks: UserTasks, newcomers: Newcomers, coding: ServerCoding) -> None:
        """Bind to a run; the last of the collective users judge."""
        users = config.users
        self.users = list(range(users.collective - users.held_out, users.collective))
        """Partition ids."""
        self._evaluate, self._tasks, self._newcomers, self._coding = config.evaluate, tasks, newcomers, coding

    def judge(
        self, number: int, last: int, point: EvaluationPoint, state: Tensors, best: BestRound
    ) -> dict[str, float]:
        """Ask for the quality of a round's tensors if it is evaluated, and let `best` consider it.

        Args:
            number: The round; 0 before the first.
            last: The last round.
            point: The bare backbone or the shared tensors.
            state: The server's tensors.
            best: The best state so far.

        Returns:
            The metrics as `held_out.…`; empty if the round is not judged.
        """
        base = point == EvaluationPoint.BASE
        if not self.users or not (base or number in self._evaluate.midway_rounds(last) | {last}):
            return {}
        send = None if base else self._newcomers.send(state, number + 1)
        task = ClientTask(number, Phase.EVALUATE, send, lambda _user: {"point": str(point)})
        scores = metrics(pool(self._tasks.statistics(task, self.users, [point])[point]))
        best.consider(number, scores, state if base else self._coding.as_sent(state), initial=base)
        return {f"held_out.{key}": value for key, value in scores.items()}
