"""The Flower ServerApp: one run from roll call to finished record."""

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from safetensors.torch import save_file

from configs.conditions import DeviceClass
from configs.errors import RunFailed
from configs.load import read_resolved
from configs.paths import run_dir
from configs.schema import RunConfig
from configs.seeds import derive_seed
from fl_server.completion import complete_record
from fl_server.devices import Closed, Devices, Turn
from fl_server.ledger import Phase
from fl_server.recorder import Recorder, statistics
from fl_server.records import append_line, read_run, write_run
from fl_server.roll_call import check_versions, enter_users
from fl_server.rounds import ClientReply, Clients
from fl_server.updates import Updates
from strategies.method import Method, Tensors, load_method
from strategies.metrics import Statistics, metrics, pool

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation whose record folder the run config names."""
    complete(run_dir(context.run_config, context.run_id), grid)


def complete(folder: Path, grid: Grid, real: bool = False) -> None:
    """Run the federation of a record, or what is left of it; the record says how it ended.

    Args:
        folder: The run record.
        grid: Flower's.
        real: The clients are real devices, each with its own user's data.
    """
    try:
        Run(folder, grid, real).complete()
    except Exception as error:
        record = read_run(folder)
        record.status = "failed"
        record.error = str(error) if isinstance(error, RunFailed) else "".join(traceback.format_exception(error))
        write_run(folder, record)
        append_line(folder / "events.jsonl", {"event": "failed", "error": record.error})


class Run:
    """One run of a method over the clients of a grid."""

    def __init__(self, folder: Path, grid: Grid, real: bool = False) -> None:
        """Read the record's config, and its checkpoint; `real` as in `complete`."""
        self.folder = folder
        self._real = real
        self.config: RunConfig = read_resolved(folder / "config.toml")
        # As on the clients: sums split over threads may round differently.
        torch.set_num_threads(self.config.partitions.cpus_per_client)
        self.method: Method = load_method(self.config.method, self.config.method_values(), self.config.settings)
        self.recorder = Recorder(folder)
        self.state: Tensors = self.recorder.state
        faults = self.config.faults
        patience = faults.client_seconds if real else None
        self.clients = Clients(grid, self.recorder.ledger, faults.retries, self._note_retry, patience)
        self.devices = Devices(self.config.devices, self.config.seed) if self.config.devices.classes else None
        users = self.config.users
        self.targets = list(range(users.collective, users.collective + users.target))

    def complete(self) -> None:
        """Do the whole run, or what is left of it.

        Raises:
            RunFailed: Clients did not answer, or failed.
        """
        try:
            per_user = self._stages()
        finally:
            self.recorder.flush()
        # Every client has answered, so nothing is being written any more.
        complete_record(self.folder, self.recorder.checkpoint, self.recorder.wall_s, per_user)
        self.recorder.event("completed")

    def _stages(self) -> dict[str, list[Statistics]]:
        done = self.recorder.checkpoint
        users = self.config.users
        answers = self.clients.call_roll(users.collective + users.target, enter=not done.parts)
        if self._real:
            check_versions(answers)
            enter_users(self.folder, read_run(self.folder), answers)
        able = [user for user in range(users.collective) if answers[user]["history"] + answers[user]["queries"]]
        if len(able) < self.config.cohort:
            raise RunFailed(
                f"cohort={self.config.cohort}: only {len(able)} collective users have an example to train on"
            )
        if done.metrics_base is None:
            base = metrics(pool(self._evaluate(0, "base")["base"]))
            self.recorder.commit(self.state, metrics_base=base)
        if self.method.first_round is not None and not self.config.start_from:
            first = self.method.first_round if done.round is None else done.round + 1
            for round_number in range(first, self.config.rounds + 1):
                self._round(round_number, able)
            if not self.recorder.checkpoint.last_turns:
                raise RunFailed("stage 1: every round was abandoned, so there is no collective shift")
        return self._personalize()

    def _cohort(self, number: int, able: list[int]) -> list[int]:
        """Draw a round's users by the run's seed; in the opening all of them."""
        if number == 0:
            return able
        size = self.config.cohort
        if self.devices:
            able, size = self.devices.available(number, able), self.devices.asked(size)
        generator = np.random.default_rng(derive_seed(self.config.seed, "cohort", number))
        return sorted(int(user) for user in generator.choice(able, size=min(size, len(able)), replace=False))

    def _round(self, number: int, able: list[int]) -> None:
        started = time.monotonic()
        sent = self.recorder.ledger.so_far
        up, down = sent["up"], sent["down"]
        cohort = self._cohort(number, able)
        aggregator = self.method.server_aggregator(self.state, number)
        updates = Updates(self.folder / ".updates", aggregator, self.config.faults, self.config.robust)
        replies: list[ClientReply] = []

        def take(reply: ClientReply) -> None:
            if reply.error is None:
                updates.take(reply.user, reply.shared, reply.values)
            # Only figures stay in memory, and none that make no sense.
            figures = {} if reply.user in updates.rejected else reply.values
            replies.append(replace(reply, shared={}, values=figures))

        turns = self.recorder.checkpoint.last_turns
        self._ask(number, "train", cohort, take, number > 0, lambda user: {"last_turn": turns.get(user, -1)})
        failed = [reply.user for reply in replies if reply.error]
        closed = self._close(number, replies)
        counted = updates.fold(closed.lost if closed else {})
        why = {user: f"rejected: {fault}" for user, fault in updates.rejected.items()} | (closed.lost if closed else {})
        for reply in replies:
            user = reply.user
            self.clients.enter(number, "train", reply, arrived=closed is None or user not in closed.lost)
            came = closed.finished.get(user) if closed else None
            self.recorder.client(number, "train", reply, why.get(user), self._device(user), came)
        losses = [reply.values["loss_last"] for reply in replies if reply.user not in why and reply.values]
        figures: dict[str, float] = {}
        problem = updates.problem(number, failed, len(cohort), self.devices is not None)
        enough = problem is None and updates.accepted >= (
            self.devices.enough(self.config.cohort) if self.devices else 1
        )
        server_s = updates.seconds
        if enough:
            averaging = time.monotonic()
            self.state, aggregation = aggregator.result()
            server_s += time.monotonic() - averaging
            figures |= {f"aggregation.{key}": value for key, value in aggregation.items()}
            figures |= self._look(number)
        loss = float(np.mean(losses)) if losses else None
        self.recorder.round(
            round=number,
            cohort=len(cohort),
            replies=len(cohort) - len(failed) - (len(closed.lost) if closed else 0),
            failures=len(failed),
            rejected=len(updates.rejected),
            retries=sum(len(reply.attempts) - (reply.error is not None) for reply in replies),
            seconds=time.monotonic() - started,
            simulated_s=closed.seconds if closed else None,
            server_s=server_s,
            server_rss_bytes=psutil.Process().memory_info().rss,
            bytes_up=sent["up"] - up,
            bytes_down=sent["down"] - down,
            loss=loss,
            metrics=list(figures.items()),
        )
        if problem:
            raise RunFailed(problem)
        if failed or updates.rejected:
            self.recorder.event("note", text=updates.describe(number, failed, len(cohort)))
        if not enough:
            self.recorder.event("note", text=f"round {number} is abandoned: {updates.accepted} updates came in time")
        self._save_shared()
        taken = dict.fromkeys(counted, number) if enough else {}
        self.recorder.commit(self.state, round=number, last_turns=turns | taken)
        figures["bytes"] = sum(sent.values())
        self.recorder.event("round", round=number, rounds=self.config.rounds, loss=loss, **figures)

    def _device(self, user: int) -> DeviceClass | None:
        return self.devices.device(user) if self.devices else None

    def _close(self, number: int, replies: list[ClientReply]) -> Closed | None:
        """Play the round on the simulated devices, where there are any."""
        if not self.devices:
            return None
        turns = [
            Turn(reply.user, reply.down.payload, reply.up.payload, reply.values["steps"])
            for reply in replies
            if reply.values
        ]
        return self.devices.close(number, turns, self.config.cohort if number else len(turns))

    def _look(self, number: int) -> dict[str, float]:
        """Evaluate on the way, where the config wants it; after the last round the personalisation does."""
        if number not in self.config.evaluate.on_the_way(self.config.rounds):
            return {}
        looked = self._evaluate(number, self.config.evaluate.stage)
        figures: dict[str, float] = {}
        for stage, users in looked.items():
            figures |= {f"{stage}.{key}": value for key, value in metrics(pool(users)).items()}
        return figures

    def _evaluate(self, number: int, stage: str) -> dict[str, list[Statistics]]:
        """Evaluate the target users: bare backbone, collective shift, or that and a personalisation in passing."""
        stages = ["collective", "personalised"] if stage == "personalised" else [stage]
        return self._ask_targets(number, "evaluate", stages, send=stage != "base", stage=stage)

    def _personalize(self) -> dict[str, list[Statistics]]:
        return self._ask_targets(self.config.rounds, "personalize", ["collective", "personalised"], send=True)

    def _ask_targets(
        self, number: int, phase: Phase, stages: list[str], send: bool, **values: object
    ) -> dict[str, list[Statistics]]:
        collected: dict[str, list[Statistics]] = {stage: [] for stage in stages}
        failed: list[int] = []

        def take(reply: ClientReply) -> None:
            self.clients.enter(number, phase, reply)
            self.recorder.client(number, phase, reply, device=self._device(reply.user))
            if reply.error:
                failed.append(reply.user)
            for stage, users in collected.items():
                users.append(statistics(reply, stage))

        self._ask(number, phase, self.targets, take, send, lambda _user: values)
        if failed:
            raise RunFailed(
                f"{phase} ({', '.join(stages)}): {len(failed)} of {len(self.targets)} clients failed; "
                f"their tracebacks are in {self.folder / 'errors.jsonl'}"
            )
        return collected

    def _ask(
        self,
        number: int,
        phase: Phase,
        users: list[int],
        take: Callable[[ClientReply], None],
        send: bool,
        values: Callable[[int], Mapping[str, object]],
    ) -> None:
        """Exchange one task with `users`."""
        self.recorder.event("phase", phase=phase, round=number, total=len(users))

        def note(reply: ClientReply) -> None:
            take(reply)
            sent = sum(self.recorder.ledger.so_far.values())
            self.recorder.event("client", phase=phase, user=reply.user, failed=reply.error is not None, bytes=sent)

        give: Callable[[int], Tensors] | None = None
        if send and phase == "train":
            give = partial(self.method.server_send, self.state)
        elif send:
            newcomers = self._newcomers()  # target users have never been there

            def give(_user: int) -> Tensors:
                return newcomers

        self.clients.ask(number, phase, users, give, note, values)

    def _note_retry(self, number: int, phase: Phase, user: int, attempt: int, error: str) -> None:
        self.recorder.failure(number, phase, user, attempt, error)
        text = f"user {user} failed and is asked again: {error.strip().splitlines()[-1][:200]}"
        self.recorder.event("note", text=text)

    def _newcomers(self) -> Tensors:
        """What a newcomer is sent; taken from another run, the state is just that."""
        return self.state if self.config.start_from else self.method.server_send(self.state, None)

    def _save_shared(self) -> None:
        scratch = self.folder / "shared.safetensors.tmp"
        save_file(self._newcomers(), scratch)
        scratch.replace(self.folder / "shared.safetensors")
