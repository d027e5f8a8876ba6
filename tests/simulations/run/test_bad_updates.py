"""Bad updates are named, counted and never averaged; attackers among honest clients."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from configs.errors import InputError, RunFailed
from fl_clients import handlers
from fl_clients.process.paths import ClientPaths
from fl_clients.turn import Turn
from fl_server.record.schema import read_run
from fl_server.stage_1 import Stage1
from simulations.run.simulate import simulate
from strategies.method import Tensors
from strategies.wire import ClientReport, Payload
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration
Tamper = Callable[[Tensors, Tensors, int], None]
"""Changes the sent tensors, given the received ones and the round."""


@pytest.fixture
def tamper(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int], Tamper], None]:
    honest = handlers.train

    def install(users: set[int], change: Tamper) -> None:
        def train(paths: ClientPaths, received: Payload, turn: Turn) -> handlers.Reply:
            reply = honest(paths, received, turn)
            if paths.partition in users and reply.payload is not None:
                change(reply.payload.tensors, received.tensors, turn.round)
            return reply

        monkeypatch.setattr(handlers, "train", train)

    return install


def poison(shared: Tensors, _received: Tensors, _number: int) -> None:
    shared["shared_collective.1.b"][0] = math.nan


def explode(shared: Tensors, received: Tensors, _number: int) -> None:
    for name in ("shared_collective.1.W", "shared_collective.1.b"):
        shared[name] = received[name] + 1e4 * (shared[name] - received[name])


def test_a_client_cannot_claim_more_examples_than_at_the_roll_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    honest = handlers.train

    def train(paths: ClientPaths, received: Payload, turn: Turn) -> handlers.Reply:
        reply = honest(paths, received, turn)
        assert isinstance(reply.report, ClientReport)
        claim = {"examples": 2**31 - 1} if paths.partition == 2 else {}
        return replace(reply, report=reply.report.model_copy(update=claim))

    monkeypatch.setattr(handlers, "train", train)
    record = simulate(tiny_config("cohort=6", "rounds=1", "faults.min_replies=5"), "run", tmp_path)
    assert record.left_out == 1
    (rejected,) = [
        row for row in pq.read_table(tmp_path / "run" / "clients.parquet").to_pylist() if "rej" in row["status"]
    ]
    # 8 history items and 4 questions.
    assert (rejected["user"], rejected["status"]) == (2, "rejected: examples=2147483647, but 12 at the roll call")


def test_a_poisoned_update_fails_the_run_and_names_the_user(
    tamper: Callable[[set[int], Tamper], None], tmp_path: Path
) -> None:
    tamper({2}, poison)
    with pytest.raises(
        RunFailed, match=r"the update of user 2 was rejected: tensor 'shared_collective.1.b' is not fin"
    ):
        simulate(tiny_config("cohort=6"), "run", tmp_path)
    assert read_run(tmp_path / "run").status == "failed"


@pytest.mark.parametrize(
    ("change", "reason"),
    [(poison, "tensor 'shared_collective.1.b' is not finite"), (explode, "its step's norm")],
)
def test_with_enough_replies_a_rejected_update_counts_as_if_the_client_had_not_been_sampled(
    change: Tamper, reason: str, tamper: Callable[[set[int], Tamper], None], tmp_path: Path
) -> None:
    config = tiny_config("cohort=6", "faults.min_replies=4", "rounds=1")
    seen: list[Tensors] = []
    tamper({0, 1, 3, 4, 5}, lambda shared, _received, _number: seen.append(dict(shared)))
    simulate(config, "honest", tmp_path)
    tamper({2}, change)
    record = simulate(config, "run", tmp_path)
    assert (record.status, record.left_out) == ("completed", 1)
    rows = {row["user"]: row for row in pq.read_table(tmp_path / "run" / "clients.parquet").to_pylist()}
    assert rows[2]["status"].startswith(f"rejected: {reason}")
    assert {rows[user]["status"] for user in (0, 1, 3, 4, 5)} == {"ok"}
    (first,) = pq.read_table(tmp_path / "run" / "rounds.parquet").to_pylist()
    assert (first["replies"], first["failures"], first["rejected"]) == (6, 0, 1)
    b = load_file(tmp_path / "run" / "shared.safetensors")["shared_collective.1.b"]
    assert torch.isfinite(b).all()
    # All have eight items and no answered questions, so all have the same weight; b as sent, before the retraction's S.
    mean = torch.stack([update["shared_collective.1.b"] for update in seen]).mean(0)
    assert torch.allclose(b, mean, atol=1e-3)


def test_a_client_that_keeps_failing_is_left_out_if_there_are_enough_replies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    honest = handlers.train

    def train(paths: ClientPaths, shared: Payload, turn: Turn) -> handlers.Reply:
        if paths.partition == 2:
            raise MemoryError("this device has none")
        return honest(paths, shared, turn)

    monkeypatch.setattr(handlers, "train", train)
    record = simulate(tiny_config("cohort=6", "faults.min_replies=5"), "run", tmp_path)
    assert (record.status, record.left_out, record.retries) == ("completed", 2, 4)
    rows = pq.read_table(tmp_path / "run" / "clients.parquet").to_pylist()
    assert [row["user"] for row in rows if row["status"] == "failed"] == [2, 2]


def test_simulated_devices_may_be_absent_but_not_send_bad_updates(
    tamper: Callable[[set[int], Tamper], None], tmp_path: Path
) -> None:
    tamper({0, 1, 2, 3, 4, 5}, poison)
    with pytest.raises(RunFailed, match="was rejected"):
        simulate(tiny_config("cohort=6", "devices.preset=silos"), "run", tmp_path)
    # No device replies in time, so every round is abandoned and the run fails.
    tamper(set(), poison)
    words = ["devices.preset=phones", "devices.deadline_s=0.001"]
    with pytest.raises(RunFailed, match="every round was abandoned"):
        simulate(tiny_config(*words), "empty", tmp_path)


@pytest.mark.parametrize("values", [{"examples": "many"}, {"steps": 1e9}, {"loss_last": math.nan}, {"examples": 2**40}])
def test_invalid_values_are_rejected_by_name(
    values: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    honest = handlers.train

    def train(paths: ClientPaths, received: Payload, turn: Turn) -> handlers.Reply:
        reply = honest(paths, received, turn)
        report = reply.report.model_copy(update=values if paths.partition == 1 else {})
        return handlers.Reply(reply.payload, report, {})

    monkeypatch.setattr(handlers, "train", train)
    with pytest.raises(RunFailed, match=f"the update of user 1 was rejected: {next(iter(values))}="):
        simulate(tiny_config("cohort=6"), "run", tmp_path)


@pytest.mark.parametrize("method", ["flora", "fedex-lora"])
@pytest.mark.parametrize("world", [["robust.rule=krum"], ["devices.preset=phones", "devices.deadline_s=30"]])
def test_a_clients_kept_tensors_match_the_servers_record_of_them(method: str, world: list[str], tmp_path: Path) -> None:
    """A client whose update was not averaged is sent the same tensors again, and applies them only once."""
    states: list[tuple[int, Tensors]] = []
    build = Stage1._train_round

    def spy(run: Stage1, number: int, *others: Any) -> None:
        build(run, number, *others)
        states.append((number, run._progress.state))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage1, "_train_round", spy)
        words = [f"method={method}", "settings.rank=2", "users.collective=8", "cohort=4", "rounds=6"]
        simulate(tiny_config(*words, *world), "run", tmp_path)
    _, state = states[-1]
    seen = {int(name.split(".")[1]): int(value) for name, value in state.items() if name.startswith("server_seen.")}
    files = list((tmp_path / "run" / "private").glob("[0-7].safetensors"))
    assert files
    for path in files:
        kept = load_file(path)
        last_seen = seen[int(path.stem)]
        stacks = {
            name: value
            for name, value in state.items()
            if name.startswith("server_stack.") and int(name.split(".")[1]) <= last_seen
        }
        for name, base in kept.items():
            module = name.removeprefix("kept_base.").removesuffix(".W")
            products = [
                stacks[key.removesuffix("A") + "B"] @ A for key, A in stacks.items() if key.endswith(f".{module}.A")
            ]
            assert torch.allclose(base, torch.stack(products).sum(0), atol=1e-5)


@pytest.mark.parametrize("rule", ["median", "trimmed_mean", "krum", "clip"])
def test_r_is_orthonormal_after_a_robust_rule(rule: str, tmp_path: Path) -> None:
    simulate(tiny_config("cohort=6", f"robust.rule={rule}"), "run", tmp_path)
    for name, R in load_file(tmp_path / "run" / "shared.safetensors").items():
        if name.endswith(".R"):
            assert float((R @ R.T - torch.eye(len(R))).abs().max()) <= 1e-5


@pytest.mark.parametrize("method", ["flora", "fedex-lora", "fedreft"])
def test_a_pooling_rule_is_refused_for_methods_that_keep_clients_separate(method: str, tmp_path: Path) -> None:
    small = [] if method == "fedreft" else ["settings.rank=2"]
    with pytest.raises(InputError, match=r"robust\.rule='median': .* keeps clients' updates separate"):
        simulate(tiny_config(f"method={method}", "robust.rule=median", *small), "run", tmp_path)


def flip(shared: Tensors, received: Tensors, _number: int) -> None:
    for name, value in shared.items():
        shared[name] = received[name] if name.endswith(".R") else received[name] - 10 * (value - received[name])


def noise(shared: Tensors, _received: Tensors, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for name, value in shared.items():
        if not name.endswith(".R"):
            shared[name] = value + 5 * torch.randn(value.shape, generator=generator)


@pytest.mark.parametrize("attack", [flip, noise])
def test_a_fifth_of_attackers_hurts_the_mean_but_not_the_robust_rules(
    attack: Tamper, tamper: Callable[[set[int], Tamper], None], tmp_path: Path
) -> None:
    def learned(name: str, attackers: set[int], rule: str) -> float:
        """Return how far the honest users' loss before training fell from the first round to the last."""
        tamper(attackers, attack)
        words = ["users.collective=10", "users.target=1", "cohort=10", "rounds=5", "local.lr=0.03"]
        config = tiny_config(*words, "faults.max_norm_ratio=1e6", f"robust.rule={rule}")
        simulate(config, name, tmp_path)
        rows = pq.read_table(tmp_path / name / "clients.parquet").to_pylist()
        by_round = [
            [row["loss_first"] for row in rows if (row["phase"], row["round"]) == ("train", n) and row["user"] >= 2]
            for n in (1, 5)
        ]
        return sum(by_round[0]) / 8 - sum(by_round[1]) / 8

    clean = learned("clean", set(), "none")
    assert clean > 0.03
    assert learned("hurt", {0, 1}, "none") < 0.8 * clean
    for rule in ("clip", "median", "trimmed_mean", "krum"):
        assert learned(rule, {0, 1}, rule) > 0.85 * clean, rule


@pytest.mark.parametrize("rule", ["clip", "median", "trimmed_mean", "krum"])
def test_a_round_without_any_update_is_named_whatever_the_rule(
    rule: str, tamper: Callable[[set[int], Tamper], None], tmp_path: Path
) -> None:
    tamper(set(range(6)), poison)
    with pytest.raises(RunFailed, match="round 1: the update of user 0 was rejected"):
        simulate(tiny_config("cohort=6", "faults.min_replies=2", f"robust.rule={rule}"), "run", tmp_path)
