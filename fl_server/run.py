"""One federated run: base evaluation, the rounds of stage 1, stage 2. Its core is `FederatedRun._train_round`."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from flwr.serverapp import Grid
from safetensors.torch import save_file

from configs.errors import RunFailed
from configs.files import secret_number, write_atomic
from configs.import_path import read_import_path
from configs.load import read_resolved
from configs.schema import RunConfig
from configs.seeds import derive_seed
from fl_server.best_round import BestRound
from fl_server.coding import ServerCoding
from fl_server.collecting import Collector
from fl_server.exchange import Clients, ClientTask
from fl_server.judges import Judges
from fl_server.newcomers import Newcomers
from fl_server.privacy import BudgetSpent, RunPrivacy, most_turns
from fl_server.record.complete import complete_record
from fl_server.record.reply import last_line
from fl_server.record.schema import read_run
from fl_server.record.writer import RecordWriter
from fl_server.roll_call import check_versions, write_users_table
from fl_server.secure_round import MaskedSumLost, TooFewUsers
from fl_server.server_step import ServerStep
from fl_server.simulated_devices import device_model
from fl_server.training_round import TrainingRound
from fl_server.user_tasks import UserTasks
from strategies.loading import load_method
from strategies.method import Method, Tensors, travelling
from strategies.metrics.points import Baseline, EvaluationPoint
from strategies.metrics.statistics import Statistics, metrics, pool
from strategies.wire import Phase


class FederatedRun:
    """One run of a method over the clients of a grid."""

    def __init__(self, folder: Path, grid: Grid, registered: Mapping[int, int] | None = None) -> None:
        """Read the record's config and checkpoint; `registered` as in `fl_server.app.complete`."""
        self.folder = folder
        self._registered = registered
        real = registered is not None
        self.config: RunConfig = read_resolved(folder / "config.toml")
        # The same number of threads as on the clients: sums split over threads may round differently.
        torch.set_num_threads(self.config.partitions.cpus_per_client)
        self.method: Method = load_method(
            self.config.method, self.config.method_values(), self.config.settings, read_import_path(folder)
        )
        own_last = self.method.last_round
        self.last_round = self.config.rounds if own_last is None else own_last
        self.writer = RecordWriter(folder)
        checkpoint = self.writer.state
        self.coding = ServerCoding(self.config, self.method, checkpoint)
        self.server_step = ServerStep(self.config.server, self.method, checkpoint)
        self.state: Tensors = {
            name: value for name, value in checkpoint.items() if name.startswith(("shared_", "server_"))
        }
        faults = self.config.faults
        patience = faults.client_seconds if real else None
        self.clients = Clients(grid, self.writer.ledger, faults.retries, self._note_retry, patience)
        self.devices = device_model(self.config.devices, self.config.seed)
        at_once = None if real else self.config.clients_at_once
        self.tasks = UserTasks(self.clients, self.writer, self.devices, self.last_round, at_once)
        users = self.config.users
        self.targets = list(range(users.collective, users.collective + users.target))
        self.best = BestRound(checkpoint)
        self.newcomers = Newcomers(self.method, self.coding, self.tasks, self.targets)
        self.judges = Judges(self.config, self.tasks, self.newcomers, self.coding)
        self.privacy: RunPrivacy | None = None

    def complete(self) -> None:
        """Run from the checkpoint to the end.

        Raises:
            RunFailed: Clients did not answer, or failed.
        """
        try:
            trainable_users = self._call_roll()
            self._settle_privacy(trainable_users)
            self.collector = Collector(
                self.folder,
                self.config,
                self.method,
                self.coding,
                self.tasks,
                self.devices,
                self.privacy,
                self.examples,
            )
            self._evaluate_base()
            self._train_collective(trainable_users)
            self._evaluate_controls()
            per_user = self._personalize()
        finally:
            self.writer.flush()
        # All clients have replied, so none of them is still writing.
        complete_record(self.folder, self.writer.checkpoint, self.writer.wall_s, per_user)
        self.writer.event("completed")

    def _call_roll(self) -> list[int]:
        """Call the roll; return the collective users that have an example to train on."""
        users = self.config.users
        anew = not self.writer.checkpoint.parts
        answers = self.clients.call_roll(users.collective + users.target, record=anew, registered=self._registered)
        if self._registered is not None:
            check_versions(answers)
            write_users_table(self.folder, read_run(self.folder), answers)
        self.examples = {user: answers[user].history + answers[user].queries for user in range(users.collective)}
        if self.judges.users and not any(answers[user].queries for user in self.judges.users):
            raise RunFailed(f"users.held_out={len(self.judges.users)}: none of these users has a question")
        trainable = [user for user, count in self.examples.items() if count and user not in self.judges.users]
        if len(trainable) < self.config.cohort:
            raise RunFailed(
                f"cohort={self.config.cohort}: only {len(trainable)} collective users have an example to train on"
            )
        return trainable

    def _settle_privacy(self, trainable_users: list[int]) -> None:
        """Settle the noise of stage 1, and how many rounds keep to `privacy.target_epsilon`."""
        if self.config.privacy.kind == "none" or self.method.first_round is None or self.config.start_from:
            return
        cohorts = (self._sample_cohort(number, trainable_users) for number in range(1, self.last_round + 1))
        # Real devices know the run's seed.
        secret = secret_number(self.folder / ".noise.key") if self._registered is not None else None
        turns = most_turns(cohorts)
        releases = self.folder / ".releases"
        self.privacy = RunPrivacy(
            self.config, self.method, len(trainable_users), turns, secret, self.writer.state, releases
        )
        self._end_stage_1(self.privacy.last_round)
        done, spent = self.writer.checkpoint.round, self.writer.checkpoint.privacy
        if spent and done is not None and spent.rounds > done:
            self._end_stage_1(done)  # the next round was given up before the interruption

    def _end_stage_1(self, number: int) -> None:
        """End stage 1 after a round, if it would go on, since the next one would exceed the target ε."""
        if number < self.last_round:
            self.last_round = number
            text = f"stage 1 ends after round {number}, to keep to privacy.target_epsilon"
            self.writer.event("note", text=text)

    def _evaluate_base(self) -> None:
        """Evaluate the bare backbone, unless the checkpoint has its metrics."""
        if self.writer.checkpoint.metrics_base is None:
            task = ClientTask(0, Phase.EVALUATE, None, lambda _user: {"point": str(EvaluationPoint.BASE)})
            found = self.tasks.statistics(task, self.targets, [EvaluationPoint.BASE, *Baseline])
            scores = {str(point): metrics(pool(users)) for point, users in found.items()}
            base = scores.pop(EvaluationPoint.BASE)
            baselines = {name: values for name, values in scores.items() if values}
            self.judges.judge(0, self.last_round, EvaluationPoint.BASE, self.state, self.best)
            self._commit(metrics_base=base, baselines=baselines)

    def _train_collective(self, trainable_users: list[int]) -> None:
        """Stage 1: run the remaining rounds, unless the shared tensors come from another run."""
        if self.method.first_round is None or self.config.start_from:
            return
        done = self.writer.checkpoint.round
        first = self.method.first_round if done is None else done + 1
        number = first
        while number <= self.last_round:
            if number in self.config.evaluate.midway_rounds(self.last_round):
                # Before the round: a commit inside it would be of a state that the round is then applied to again.
                self._introduce()
            try:
                self._train_round(number, trainable_users)
            except BudgetSpent:
                self._end_stage_1(number - 1)
                # It was released once before.
                self._commit(privacy=self.privacy.spent(number) if self.privacy else None)
            if self.privacy:
                self._end_stage_1(self.privacy.last_round)
            number += 1
        if not self.writer.checkpoint.last_turns:
            raise RunFailed("stage 1: every round was abandoned, so there is no collective shift")
        if self.config.keep == "best":
            self._judge_last()
            self._keep_best()

    def _train_round(self, number: int, trainable_users: list[int]) -> None:
        """One round of federated averaging: sample, collect, aggregate, record, commit."""
        cohort = self._sample_cohort(number, trainable_users)
        sent = self.writer.ledger.so_far.copy()
        this = self.collector.collect(number, cohort, self.state, self.writer.checkpoint.last_turns, sent)
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
        available = self.devices.available(number, trainable_users)
        size = min(self.devices.cohort_size(self.config.cohort), len(available))
        generator = np.random.default_rng(derive_seed(self.config.seed, "cohort", number))
        return sorted(int(user) for user in generator.choice(available, size=size, replace=False))

    def _aggregate(self, this: TrainingRound) -> None:
        """Replace the shared tensors by the average, if enough updates arrived."""
        this.server_s = this.updates.seconds
        this.problem = this.updates.problem(this.number, len(this.cohort), self.devices.may_lose_clients)
        this.averaged = this.problem is None and this.updates.accepted >= self.devices.quorum(self.config.cohort)
        if this.averaged:
            started = time.monotonic()
            try:
                this.counted = this.updates.fold()
            except MaskedSumLost as error:
                expected = isinstance(error, TooFewUsers) and self.devices.may_lose_clients
                this.problem, this.averaged = None if expected else str(error), False
                return
            average, figures = this.aggregator.result()
            self.state = self.server_step.apply(this.number, self.state, average)
            sent = travelling(self.state).values()
            if any(bool(torch.isnan(value).any()) for value in self.state.values()) or not all(
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
        number = this.number
        for reply in this.replies:
            user = reply.user
            self.clients.record_message(number, Phase.TRAIN, reply, arrived=user not in this.outcome.lost)
            arrived_at_s = this.outcome.arrived_at_s.get(user)
            rejection, device = this.rejections.get(user), self.devices.device(user)
            self.writer.client(number, Phase.TRAIN, reply, rejection, device, arrived_at_s)
        if this.averaged:
            this.figures |= self._evaluate_midway(number)
            point = EvaluationPoint.COLLECTIVE
            this.figures |= self.judges.judge(number, self.last_round, point, self.state, self.best)
        this.figures |= self.privacy.figures(number) if self.privacy else {}
        self.writer.round(**this.row(self.writer.ledger.so_far))
        if this.problem:
            raise RunFailed(this.problem)

    def _commit_round(self, this: TrainingRound) -> None:
        """Make the round final: a run that is killed later resumes after it."""
        number, updates = this.number, this.updates
        if updates.failed or updates.rejected:
            self.writer.event("note", text=updates.describe(number, len(this.cohort)))
        if not this.averaged:
            self.writer.event("note", text=f"round {number} is abandoned: {updates.accepted} updates arrived in time")
        self._save_shared(number + 1)
        counted = dict.fromkeys(this.counted, number) if this.averaged else {}
        spent = self.privacy.spent(number) if self.privacy else None
        self._commit(round=number, last_turns=self.writer.checkpoint.last_turns | counted, privacy=spent)
        figures = this.figures | {"bytes": sum(self.writer.ledger.so_far.values())}
        about = {"rounds": self.last_round, "loss": this.loss, "updates": len(this.counted)}
        self.writer.event("round", round=number, **about, **figures)

    def _evaluate_midway(self, number: int) -> dict[str, float]:
        """Evaluate the target users after this round if the config says so; after the last round, stage 2 does it."""
        evaluate = self.config.evaluate
        if number not in evaluate.midway_rounds(self.last_round):
            return {}
        points = [EvaluationPoint.COLLECTIVE]
        if EvaluationPoint(evaluate.point) == EvaluationPoint.PERSONALISED:
            points.append(EvaluationPoint.PERSONALISED)
        figures: dict[str, float] = {}
        for point, users in self._evaluate(number, points).items():
            figures |= {f"{point}.{key}": value for key, value in metrics(pool(users)).items()}
        return figures

    def _judge_last(self) -> None:
        """Judge the last state, unless it has been: its round may have been abandoned, or the last one by surprise."""
        done = self.writer.checkpoint.round
        if done is not None and self.best.judged < done:
            self.judges.judge(done, done, EvaluationPoint.COLLECTIVE, self.state, self.best)

    def _keep_best(self) -> None:
        """Go back to the best state, if it is an earlier one."""
        if self.best.round != self.writer.checkpoint.round:
            self.state = self.best.state
            self.coding.begin_anew(self.state)
        what = f"round {self.best.round}" if self.best.round else "the initial tensors: no round was better"
        self.writer.event("note", text=f"keep='best': {what} ({self.best.score:.3f} on held-out users)")
        self._save_shared(self.last_round + 1)

    def _evaluate(self, number: int, points: list[EvaluationPoint]) -> dict[EvaluationPoint, list[Statistics]]:
        """Evaluate the target users at the given points; private tensors trained for this are not kept."""
        last = str(points[-1])
        send = self.newcomers.send(self.state, number + 1)
        task = ClientTask(number, Phase.EVALUATE, send, lambda _user: {"point": last})
        return self.tasks.statistics(task, self.targets, points)

    def _personalize(self) -> dict[EvaluationPoint, list[Statistics]]:
        """Stage 2: every target user trains its private tensors and is evaluated before and after."""
        last = self.last_round
        task = ClientTask(last, Phase.PERSONALIZE, self.newcomers.send(self.state, last + 1))
        return self.tasks.statistics(task, self.targets, [EvaluationPoint.COLLECTIVE, EvaluationPoint.PERSONALISED])

    def _introduce(self) -> None:
        """Let the target users take part in the opening, if the method needs that and they have not."""
        if self.method.introduces and not self.writer.checkpoint.introduced:
            self.state = self.newcomers.introduce(self.state)
            if not self.config.start_from:
                self._save_shared(self.last_round + 1)
            self._commit(introduced=True)

    def _evaluate_controls(self) -> None:
        """Evaluate what the target users could be sent instead, unless the checkpoint has it."""
        self._introduce()
        if not self.writer.checkpoint.controls and (found := self.newcomers.controls(self.state, self.last_round)):
            self._commit(controls=found)

    def _note_retry(self, number: int, phase: Phase, user: int, attempt: int, error: str) -> None:
        self.writer.failure(number, phase, user, attempt, error)
        text = f"user {user} failed and is retried: {last_line(error)}"
        self.writer.event("note", text=text)

    def _save_shared(self, version: int) -> None:
        self.coding.advance(version, self.state)
        tensors = self.coding.newcomers_tensors(self.state) | self.method.server_keeps(self.state)
        write_atomic(self.folder / "shared.safetensors", partial(save_file, tensors))

    def _commit(self, **done: object) -> None:
        kept = self.coding.saved() | self.server_step.saved() | self.best.saved()
        kept |= self.privacy.saved() if self.privacy else {}
        self.writer.commit(self.state | kept, **done)
