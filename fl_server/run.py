"""One federated run: the roll call, the bare backbone, stage 1, stage 2."""

from collections.abc import Mapping
from pathlib import Path

import torch
from flwr.serverapp import Grid

from configs.errors import RunFailed
from configs.files import secret_number
from configs.import_path import read_import_path
from configs.load import read_resolved
from configs.schema import RunConfig
from fl_server.evaluation import Evaluation
from fl_server.exchange import Clients
from fl_server.progress import Progress
from fl_server.record.complete import complete_record
from fl_server.record.reply import last_line
from fl_server.record.schema import read_run
from fl_server.roll_call import check_versions, write_users_table
from fl_server.simulated_devices import device_model
from fl_server.stage_1 import Stage1
from fl_server.user_tasks import UserTasks
from strategies.loading import load_method
from strategies.wire import Phase


class FederatedRun:
    """One run of a method over the clients of a grid."""

    def __init__(self, folder: Path, grid: Grid, registered: Mapping[int, int] | None = None) -> None:
        """Read the record's config and checkpoint; `registered` as in `fl_server.app.complete`."""
        self._folder, self._registered = folder, registered
        real = registered is not None
        self._config: RunConfig = read_resolved(folder / "config.toml")
        # The same number of threads as on the clients: sums split over threads may round differently.
        torch.set_num_threads(self._config.partitions.cpus_per_client)
        method = load_method(
            self._config.method, self._config.method_values(), self._config.settings, read_import_path(folder)
        )
        self._progress = Progress(folder, self._config, method)
        self._writer = self._progress.writer
        faults = self._config.faults
        patience = faults.client_seconds if real else None
        self._clients = Clients(grid, self._writer.ledger, faults.retries, self._note_retry, patience)
        devices = device_model(self._config.devices, self._config.seed)
        at_once = None if real else self._config.clients_at_once
        tasks = UserTasks(self._clients, self._writer, devices, self._progress.last_round, at_once)
        self._evaluation = Evaluation(self._config, method, self._progress, tasks)
        self._stage_1 = Stage1(folder, self._config, method, self._progress, self._evaluation, tasks, devices)

    def complete(self) -> None:
        """Run from the checkpoint to the end.

        Raises:
            RunFailed: Clients did not answer, or failed.
        """
        try:
            examples, trainable_users = self._call_roll()
            # Real devices know the run's seed.
            secret = secret_number(self._folder / ".noise.key") if self._registered is not None else None
            self._stage_1.settle_privacy(trainable_users, secret)
            self._evaluation.base()
            self._stage_1.train(trainable_users, examples)
            self._evaluation.controls()
            per_user = self._evaluation.personalize()
        finally:
            self._writer.flush()
        # All clients have replied, so none of them is still writing.
        complete_record(self._folder, self._writer.checkpoint, self._writer.wall_s, per_user)
        self._writer.event("completed")

    def _call_roll(self) -> tuple[dict[int, int], list[int]]:
        """Call the roll; return collective users' examples, and which of these users have one to train on."""
        users, judges = self._config.users, self._evaluation.judges
        anew = not self._writer.checkpoint.parts
        answers = self._clients.call_roll(users.collective + users.target, record=anew, registered=self._registered)
        if self._registered is not None:
            check_versions(answers)
            write_users_table(self._folder, read_run(self._folder), answers)
        examples = {user: answers[user].history + answers[user].queries for user in range(users.collective)}
        if judges and not any(answers[user].queries for user in judges):
            raise RunFailed(f"users.held_out={len(judges)}: none of these users has a question")
        trainable = [user for user, count in examples.items() if count and user not in judges]
        if len(trainable) < self._config.cohort:
            raise RunFailed(
                f"cohort={self._config.cohort}: only {len(trainable)} collective users have an example to train on"
            )
        return examples, trainable

    def _note_retry(self, number: int, phase: Phase, user: int, attempt: int, error: str) -> None:
        self._writer.failure(number, phase, user, attempt, error)
        text = f"user {user} failed and is retried: {last_line(error)}"
        self._writer.event("note", text=text)
