"""The Flower ServerApp: one run from roll call to finished record."""

import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from safetensors.torch import load_file, save_file

from configs.errors import RunFailed
from configs.load import read_resolved
from configs.schema import RunConfig
from configs.seeds import derive_seed
from fl_server.ledger import Ledger, Phase, total_bytes
from fl_server.records import (
    CLIENTS,
    ROUNDS,
    TableWriter,
    append_line,
    gather,
    read_run,
    write_run,
)
from fl_server.rounds import ClientReply, Clients
from strategies.method import Method, Tensors, load_method
from strategies.metrics import Statistics, metrics, pool

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation whose record folder the run config names; the record says how it ended."""
    folder = Path(str(context.run_config["run-dir"]))
    try:
        Run(folder, grid).complete()
    except Exception as error:
        record = read_run(folder)
        record.status = "failed"
        record.error = str(error) if isinstance(error, RunFailed) else "".join(traceback.format_exception(error))
        write_run(folder, record)
        append_line(folder / "events.jsonl", {"event": "failed", "error": record.error})


class Run:
    """One run of a method over the clients of a grid."""

    def __init__(self, folder: Path, grid: Grid) -> None:
        """Read the record's config and starting tensors, and open its tables."""
        self.folder = folder
        self.started = time.monotonic()
        self.config: RunConfig = read_resolved(folder / "config.toml")
        # As on the clients: sums split over threads may round differently.
        torch.set_num_threads(self.config.partitions.cpus_per_client)
        self.method: Method = load_method(self.config.method, self.config.method_values(), self.config.settings)
        self.state: Tensors = load_file(folder / "server.safetensors")
        self.ledger = Ledger(folder)
        self.rounds = TableWriter(folder, "rounds", ROUNDS)
        self.clients_table = TableWriter(folder, "clients", CLIENTS)
        self.clients = Clients(grid, self.ledger)
        self.targets = list(
            range(self.config.users.collective, self.config.users.collective + self.config.users.target)
        )

    def complete(self) -> None:
        """Do the whole run.

        Raises:
            RunFailed: Clients did not answer, or failed.
        """
        try:
            per_user = self._stages()
        finally:
            for table in (self.ledger, self.rounds, self.clients_table):
                table.flush()
        # Every client has answered, so nothing is being written any more.
        gather(self.folder)
        record = read_run(self.folder)
        pooled = {stage: metrics(pool(users)) for stage, users in per_user.items()}
        record.metrics_base = pooled["base"]
        record.metrics_collective = pooled["collective"]
        record.metrics = pooled["personalised"]
        record.per_user = _spread([metrics(statistics) for statistics in per_user["personalised"]])
        record.bytes = total_bytes(self.folder)
        record.wall_s = time.monotonic() - self.started
        record.status = "completed"
        write_run(self.folder, record)
        (self.folder / "server.safetensors").unlink()
        self._event("completed")

    def _stages(self) -> dict[str, list[Statistics]]:
        answers = self.clients.call_roll(self.config.users.collective + self.config.users.target)
        able = [
            user for user in range(self.config.users.collective) if answers[user]["history"] + answers[user]["queries"]
        ]
        if len(able) < self.config.cohort:
            raise RunFailed(
                f"cohort={self.config.cohort}: only {len(able)} collective users have an example to train on"
            )
        per_user = self._evaluate(0, "base")
        if self.method.first_round is not None and not self.config.start_from:
            for round_number in range(self.method.first_round, self.config.rounds + 1):
                self._round(round_number, able)
        return per_user | self._personalize()

    def _cohort(self, number: int, able: list[int]) -> list[int]:
        """Draw a round's users by the run's seed; in the opening all of them."""
        if number == 0:
            return able
        generator = np.random.default_rng(derive_seed(self.config.seed, "cohort", number))
        return sorted(int(user) for user in generator.choice(able, size=self.config.cohort, replace=False))

    def _round(self, number: int, able: list[int]) -> None:
        started = time.monotonic()
        up, down = self.ledger.round_bytes["up"], self.ledger.round_bytes["down"]
        cohort = self._cohort(number, able)
        aggregator = self.method.server_aggregator(self.state, number)
        losses: list[float] = []

        def fold(reply: ClientReply) -> None:
            if reply.error is None:
                aggregator.add(reply.user, reply.shared, int(reply.values["examples"]))
                losses.append(float(reply.values["loss_last"]))

        failures = self._ask(number, "train", cohort, fold, send=number > 0)
        figures: dict[str, float] = {}
        if not failures:
            self.state, aggregation = aggregator.result()
            self._save_state()
            figures |= {f"aggregation.{key}": value for key, value in aggregation.items()}
            figures |= self._look(number)
        self.rounds.add(
            round=number,
            cohort=len(cohort),
            replies=len(cohort) - failures,
            failures=failures,
            retries=0,
            seconds=time.monotonic() - started,
            bytes_up=self.ledger.round_bytes["up"] - up,
            bytes_down=self.ledger.round_bytes["down"] - down,
            loss=float(np.mean(losses)) if losses else None,
            metrics=list(figures.items()),
        )
        self.rounds.flush()
        self._refuse_failures(failures, len(cohort), f"round {number}")
        self._event("round", round=number, rounds=self.config.rounds, loss=float(np.mean(losses)), **figures)

    def _look(self, number: int) -> dict[str, float]:
        """Evaluate on the way, where the config wants it; after the last round the personalisation does."""
        every = self.config.evaluate.every
        if not every or not number or number % every or number == self.config.rounds:
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

        def take(reply: ClientReply) -> None:
            for stage, users in collected.items():
                users.append(_statistics(reply, stage))

        failures = self._ask(number, phase, self.targets, take, send, **values)
        self._refuse_failures(failures, len(self.targets), f"{phase} ({', '.join(stages)})")
        return collected

    def _ask(
        self,
        number: int,
        phase: Phase,
        users: list[int],
        take: Callable[[ClientReply], None],
        send: bool,
        **values: object,
    ) -> int:
        """Exchange one task with `users`, record each client, and return how many failed."""
        failures = 0
        self._event("phase", phase=phase, round=number, total=len(users))

        def note(reply: ClientReply) -> None:
            nonlocal failures
            self._record_client(number, phase, reply)
            failures += reply.error is not None
            take(reply)
            self._event("client", phase=phase, user=reply.user, failed=reply.error is not None)

        give: Callable[[int], Tensors] | None = None
        if send and phase == "train":
            give = partial(self.method.server_send, self.state)
        elif send:
            newcomers = self._newcomers()  # target users have never been there

            def give(_user: int) -> Tensors:
                return newcomers

        self.clients.ask(number, phase, users, give, note, **values)
        self.clients_table.flush()
        self.ledger.flush()
        return failures

    def _record_client(self, number: int, phase: Phase, reply: ClientReply) -> None:
        values = reply.values
        own = {
            f"{stage}.{key}": value
            for stage in ("base", "collective", "personalised")
            for key, value in metrics(_statistics(reply, stage)).items()
        }
        self.clients_table.add(
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
            partition=values.get("partition_name"),
            peak_memory_bytes=values.get("peak_memory_bytes"),
            status="failed" if reply.error else values.get("status", "ok"),
            metrics=list(own.items()),
        )
        if reply.error:
            error = {"round": number, "phase": phase, "user": reply.user, "traceback": reply.error}
            append_line(self.folder / "errors.jsonl", error)

    def _refuse_failures(self, failures: int, asked: int, where: str) -> None:
        if failures:
            raise RunFailed(
                f"{where}: {failures} of {asked} clients failed; their tracebacks are in {self.folder / 'errors.jsonl'}"
            )

    def _newcomers(self) -> Tensors:
        """What a newcomer is sent; taken from another run, the state is just that."""
        return self.state if self.config.start_from else self.method.server_send(self.state, None)

    def _save_state(self) -> None:
        for name, tensors in (("server", self.state), ("shared", self._newcomers())):
            scratch = self.folder / f"{name}.safetensors.tmp"
            save_file(tensors, scratch)
            scratch.replace(self.folder / f"{name}.safetensors")

    def _event(self, event: str, **values: object) -> None:
        append_line(self.folder / "events.jsonl", {"event": event, **values})


def _statistics(reply: ClientReply, stage: str) -> Statistics:
    prefix = f"{stage}."
    return {key.removeprefix(prefix): values for key, values in reply.numbers.items() if key.startswith(prefix)}


def _spread(users: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean, standard deviation, 10th and 90th percentile of each metric over users that have it."""
    spread: dict[str, dict[str, float]] = {}
    for key in sorted({key for user in users for key in user}):
        values = np.array([user[key] for user in users if key in user])
        low, high = np.percentile(values, [10, 90])
        spread[key] = {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "p10": float(low),
            "p90": float(high),
        }
    return spread
