"""The target users' part of a run: they are evaluated before, during and after stage 1, and train in stage 2."""

from configs.schema import RunConfig
from fl_server.exchange import ClientTask
from fl_server.judges import Judges
from fl_server.newcomers import Newcomers
from fl_server.progress import Progress
from fl_server.user_tasks import UserTasks
from strategies.method import Method
from strategies.metrics.points import Baseline, EvaluationPoint
from strategies.metrics.statistics import Statistics, metrics, pool
from strategies.wire import Phase


class Evaluation:
    """When target users, and those who judge the shared tensors, are asked what."""

    def __init__(self, config: RunConfig, method: Method, progress: Progress, tasks: UserTasks) -> None:
        """Bind to a run.

        Args:
            config: The run's config.
            method: Its method.
            progress: How far it is.
            tasks: Asks its clients.
        """
        self._method, self._progress, self._tasks = method, progress, tasks
        self._evaluate, self._starts_from = config.evaluate, config.start_from
        users = config.users
        self._targets = list(range(users.collective, users.collective + users.target))
        self._newcomers = Newcomers(method, progress.coding, tasks, self._targets)
        self._judges = Judges(config, tasks, self._newcomers, progress.coding)

    @property
    def judges(self) -> list[int]:
        """Partition ids of the users who judge the shared tensors."""
        return self._judges.users

    def base(self) -> None:
        """Evaluate the bare backbone, unless the checkpoint has its metrics."""
        if self._progress.checkpoint.metrics_base is None:
            task = ClientTask(0, Phase.EVALUATE, None, lambda _user: {"point": str(EvaluationPoint.BASE)})
            answers = self._tasks.statistics(task, self._targets, [EvaluationPoint.BASE, *Baseline])
            scores = {str(point): metrics(pool(users)) for point, users in answers.items()}
            base = scores.pop(EvaluationPoint.BASE)
            self._judge(0, self._progress.last_round, EvaluationPoint.BASE)
            baselines = {name: values for name, values in scores.items() if values}
            self._progress.commit(metrics_base=base, baselines=baselines)

    def is_midway(self, number: int) -> bool:
        """Tell whether the config asks for an evaluation after this round; after the last one stage 2 does it."""
        return number in self._evaluate.midway_rounds(self._progress.last_round)

    def after_round(self, number: int) -> dict[str, float]:
        """Evaluate the round's tensors if the config says so, and return the metrics by point."""
        figures: dict[str, float] = {}
        if self.is_midway(number):
            points = [EvaluationPoint.COLLECTIVE]
            if EvaluationPoint(self._evaluate.point) == EvaluationPoint.PERSONALISED:
                points.append(EvaluationPoint.PERSONALISED)
            send = self._newcomers.send(self._progress.state, number + 1)
            # Private tensors that are trained for this are not kept.
            task = ClientTask(number, Phase.EVALUATE, send, lambda _user: {"point": str(points[-1])})
            for point, users in self._tasks.statistics(task, self._targets, points).items():
                figures |= {f"{point}.{key}": value for key, value in metrics(pool(users)).items()}
        return figures | self._judge(number, self._progress.last_round, EvaluationPoint.COLLECTIVE)

    def judge_last(self) -> None:
        """Judge the last state, unless it has been: its round may have been abandoned, or unexpectedly be the last."""
        done = self._progress.checkpoint.round
        if done is not None and self._progress.best.judged < done:
            self._judge(done, done, EvaluationPoint.COLLECTIVE)

    def introduce(self) -> None:
        """Let the target users take part in the opening, if the method needs that and they have not."""
        if self._method.introduces and not self._progress.checkpoint.introduced:
            self._progress.state = self._newcomers.introduce(self._progress.state)
            if not self._starts_from:
                self._progress.save_shared(self._progress.last_round + 1)
            self._progress.commit(introduced=True)

    def controls(self) -> None:
        """Evaluate what the target users could be sent instead, unless the checkpoint has it."""
        self.introduce()
        if self._progress.checkpoint.controls:
            return
        if controls := self._newcomers.controls(self._progress.state, self._progress.last_round):
            self._progress.commit(controls=controls)

    def personalize(self) -> dict[EvaluationPoint, list[Statistics]]:
        """Stage 2: every target user trains its private tensors and is evaluated before and after."""
        last = self._progress.last_round
        task = ClientTask(last, Phase.PERSONALIZE, self._newcomers.send(self._progress.state, last + 1))
        return self._tasks.statistics(task, self._targets, [EvaluationPoint.COLLECTIVE, EvaluationPoint.PERSONALISED])

    def _judge(self, number: int, last: int, point: EvaluationPoint) -> dict[str, float]:
        return self._judges.judge(number, last, point, self._progress.state, self._progress.best)
