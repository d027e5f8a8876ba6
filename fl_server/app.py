"""The Flower ServerApp: one run from roll call to finished record."""

import time
import traceback
from collections.abc import Callable
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
        self.shared: Tensors = load_file(folder / "shared.safetensors")
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
        per_user = {"base": self._evaluate(0, None)}
        for round_number in range(1, self.config.rounds + 1):
            self._round(round_number, able)
        per_user |= self._personalize()
        return per_user

    def _round(self, number: int, able: list[int]) -> None:
        started = time.monotonic()
        up, down = self.ledger.round_bytes["up"], self.ledger.round_bytes["down"]
        generator = np.random.default_rng(derive_seed(self.config.seed, "cohort", number))
        cohort = sorted(int(user) for user in generator.choice(able, size=self.config.cohort, replace=False))
        aggregator = self.method.server_aggregator(self.shared)
        losses: list[float] = []

        def fold(reply: ClientReply) -> None:
            if reply.error is None:
                aggregator.add(reply.shared, int(reply.values["examples"]))
                losses.append(float(reply.values["loss_last"]))

        failures = self._ask(number, "train", cohort, self.shared, fold)
        figures: dict[str, float] = {}
        if not failures:
            self.shared, aggregation = aggregator.result()
            self._save_shared()
            figures |= {f"aggregation.{key}": value for key, value in aggregation.items()}
            every = self.config.evaluate.every
            if every and number % every == 0:
                figures |= metrics(pool(self._evaluate(number, self.shared)))
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

    def _evaluate(self, number: int, shared: Tensors | None) -> list[Statistics]:
        stage = "base" if shared is None else "collective"
        collected: list[Statistics] = []
        failures = self._ask(
            number,
            "evaluate",
            self.targets,
            shared,
            lambda reply: collected.append(_statistics(reply, stage)),
        )
        self._refuse_failures(failures, len(self.targets), f"evaluation ({stage})")
        return collected

    def _personalize(self) -> dict[str, list[Statistics]]:
        collected: dict[str, list[Statistics]] = {"collective": [], "personalised": []}

        def take(reply: ClientReply) -> None:
            for stage, users in collected.items():
                users.append(_statistics(reply, stage))

        failures = self._ask(self.config.rounds, "personalize", self.targets, self.shared, take)
        self._refuse_failures(failures, len(self.targets), "personalisation")
        return collected

    def _ask(
        self,
        number: int,
        phase: Phase,
        users: list[int],
        shared: Tensors | None,
        take: Callable[[ClientReply], None],
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

        self.clients.ask(number, phase, users, shared, note)
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

    def _save_shared(self) -> None:
        scratch = self.folder / "shared.safetensors.tmp"
        save_file(self.shared, scratch)
        scratch.replace(self.folder / "shared.safetensors")

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
