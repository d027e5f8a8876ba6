"""Stage 1: the rounds in which the shared tensors are trained. Its core is `Stage1._train_round`."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from configs.errors import RunFailed
from configs.schema import RunConfig
from configs.seeds import derive_seed
from fl_server.collecting import Collector
from fl_server.evaluation import Evaluation
from fl_server.privacy import BudgetSpent, RunPrivacy, most_turns
from fl_server.progress import Progress
from fl_server.secure_round import MaskedSumLost, TooFewUsers
from fl_server.simulated_devices import DeviceModel
from fl_server.training_round import TrainingRound
from fl_server.user_tasks import UserTasks
from strategies.method import Method, travelling
from strategies.wire import Phase


class Stage1:
    """The rounds of one run."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        method: Method,
        progress: Progress,
        evaluation: Evaluation,
        tasks: UserTasks,
        devices: DeviceModel,
    ) -> None:
        """Bind to a run.

        Args:
            folder: The run record.
            config: Its config.
            method: Its method.
            progress: How far it is.
            evaluation: Evaluates its users midway.
            tasks: Asks its clients.
            devices: Its simulated devices.
        """
        self._folder, self._config, self._method = folder, config, method
        self._progress, self._evaluation, self._tasks, self._devices = progress, evaluation, tasks, devices

    @property
    def is_run(self) -> bool:
        """Whether the run has a stage 1 of its own."""
        return self._method.first_round is not None and not self._config.start_from

    def settle_privacy(self, trainable_users: list[int], secret: int | None) -> None:
        """Settle the noise, and how many rounds keep to `privacy.target_epsilon`.

        Args:
            trainable_users: Partition ids of the users with an example to train on.
            secret: What the server's noise is drawn from where clients know the run's seed.
        """
        if self._config.privacy.kind == "none" or not self.is_run:
            return
        progress = self._progress
        cohorts = (self._sample_cohort(number, trainable_users) for number in range(1, progress.last_round + 1))
        turns = most_turns(cohorts)
        releases = self._folder / ".releases"
        progress.privacy = RunPrivacy(
            self._config, self._method, len(trainable_users), turns, secret, progress.writer.state, releases
        )
        progress.end_stage_1(progress.privacy.last_round)
        done, spent = progress.checkpoint.round, progress.checkpoint.privacy
        if spent and done is not None and spent.rounds > done:
            progress.end_stage_1(done)  # the next round was given up before the interruption

    def train(self, trainable_users: list[int], examples: Mapping[int, int]) -> None:
        """Run the remaining rounds, unless the shared tensors come from another run.

        Args:
            trainable_users: Partition ids of the users with an example to train on.
            examples: Every collective user's examples at the roll call, by partition id.

        Raises:
            RunFailed: A round could not be averaged, or all were abandoned.
        """
        first = self._method.first_round
        if first is None or not self.is_run:
            return
        progress = self._progress
        collector = Collector(
            self._folder,
            self._config,
            self._method,
            progress.coding,
            self._tasks,
            self._devices,
            progress.privacy,
            examples,
        )
        done = progress.checkpoint.round
        number = first if done is None else done + 1
        while number <= progress.last_round:
            if self._evaluation.is_midway(number):
                # Before the round: a commit inside it would be of a state that the round is then applied to again.
                self._evaluation.introduce()
            try:
                self._train_round(number, trainable_users, collector)
            except BudgetSpent:
                progress.end_stage_1(number - 1)
                # It was released once before.
                progress.commit(privacy=progress.privacy.spent(number) if progress.privacy else None)
            if progress.privacy:
                progress.end_stage_1(progress.privacy.last_round)
            number += 1
        if not progress.checkpoint.last_turns:
            raise RunFailed("stage 1: every round was abandoned, so there is no collective shift")
        if self._config.keep == "best":
            self._evaluation.judge_last()
            self._keep_best()

    def _train_round(self, number: int, trainable_users: list[int], collector: Collector) -> None:
        """One round of federated averaging: sample, collect, aggregate, record, commit."""
        cohort = self._sample_cohort(number, trainable_users)
        progress = self._progress
        sent = progress.writer.ledger.so_far.copy()
        this = collector.collect(number, cohort, progress.state, progress.checkpoint.last_turns, sent)
        try:
            self._aggregate(this)
        except BudgetSpent:
            this.averaged = False
            self._record_round(this)  # its messages were sent
            raise
        self._record_round(this)
        self._commit_round(this)

    def _sample_cohort(self, number: int, trainable_users: list[int]) -> list[int]:
        """Draw a round's users from the run's seed; the opening has all of them."""
        if number == 0:
            return trainable_users
        available = self._devices.available(number, trainable_users)
        size = min(self._devices.cohort_size(self._config.cohort), len(available))
        generator = np.random.default_rng(derive_seed(self._config.seed, "cohort", number))
        return sorted(int(user) for user in generator.choice(available, size=size, replace=False))

    def _aggregate(self, this: TrainingRound) -> None:
        """Replace the shared tensors by the average, if enough updates arrived."""
        progress, devices = self._progress, self._devices
        this.server_s = this.updates.seconds
        this.problem = this.updates.problem(this.number, len(this.cohort), devices.may_lose_clients)
        this.averaged = this.problem is None and this.updates.accepted >= devices.quorum(self._config.cohort)
        if this.averaged:
            started = time.monotonic()
            try:
                this.counted = this.updates.fold()
            except MaskedSumLost as error:
                expected = isinstance(error, TooFewUsers) and devices.may_lose_clients
                this.problem, this.averaged = None if expected else str(error), False
                return
            average, figures = this.aggregator.result()
            progress.state = progress.server_step.apply(this.number, progress.state, average)
            sent = travelling(progress.state).values()
            if any(bool(torch.isnan(value).any()) for value in progress.state.values()) or not all(
                bool(torch.isfinite(value).all()) for value in sent
            ):
                raise RunFailed(f"round {this.number}: the server's tensors are not numbers any more; try lower rates")
            this.server_s += time.monotonic() - started
            this.figures = {f"aggregation.{key}": value for key, value in figures.items()}

    def _record_round(self, this: TrainingRound) -> None:
        """Write the round's messages, clients and metrics; evaluate midway if the config says so.

        Raises:
            RunFailed: The round could not be averaged.
        """
        number, progress = this.number, self._progress
        for reply in this.replies:
            user, outcome = reply.user, this.outcome
            arrived, arrived_at_s = user not in outcome.lost, outcome.arrived_at_s.get(user)
            rejection = this.rejections.get(user)
            self._tasks.record(number, Phase.TRAIN, reply, rejection, arrived=arrived, arrived_at_s=arrived_at_s)
        if this.averaged:
            this.figures |= self._evaluation.after_round(number)
        this.figures |= progress.privacy.figures(number) if progress.privacy else {}
        progress.writer.round(**this.row(progress.writer.ledger.so_far))
        if this.problem:
            raise RunFailed(this.problem)

    def _commit_round(self, this: TrainingRound) -> None:
        """Make the round final: a run that is killed later resumes after it."""
        number, updates, progress = this.number, this.updates, self._progress
        if updates.failed or updates.rejected:
            progress.writer.event("note", text=updates.describe(number, len(this.cohort)))
        if not this.averaged:
            text = f"round {number} is abandoned: {updates.accepted} updates arrived in time"
            progress.writer.event("note", text=text)
        progress.save_shared(number + 1)
        counted = dict.fromkeys(this.counted, number) if this.averaged else {}
        spent = progress.privacy.spent(number) if progress.privacy else None
        progress.commit(round=number, last_turns=progress.checkpoint.last_turns | counted, privacy=spent)
        figures = this.figures | {"bytes": sum(progress.writer.ledger.so_far.values())}
        about = {"rounds": progress.last_round, "loss": this.loss, "updates": len(this.counted)}
        progress.writer.event("round", round=number, **about, **figures)

    def _keep_best(self) -> None:
        """Go back to the best state, if it is an earlier one."""
        progress, best = self._progress, self._progress.best
        if best.is_initial or best.round != progress.checkpoint.round:
            progress.state = best.state
            progress.coding.begin_anew(progress.state)
        what = "the initial tensors: no round was better" if best.is_initial else f"round {best.round}"
        progress.writer.event("note", text=f"keep='best': {what} ({best.score:.3f} on held-out users)")
        progress.save_shared(progress.last_round + 1)
