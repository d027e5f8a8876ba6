"""Differential privacy in whole runs: what clients send is clipped, noise follows from the seed, ε is recorded."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from configs.errors import InputError
from fl_clients import handlers
from fl_clients.backbone.load import read_shape
from fl_clients.process.paths import ClientPaths
from fl_server.evaluation import Evaluation
from fl_server.record.reply import ClientReply
from fl_server.record.schema import RunRecord
from fl_server.stage_1 import Stage1
from fl_server.training_round import TrainingRound
from fl_server.updates import Updates
from simulations.display.tables import quality_table
from simulations.run.simulate import resume, simulate
from strategies.aggregation.private_mean import clipped
from strategies.codecs import minus
from strategies.loading import load_method
from strategies.method import Tensors, travelling
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration
CENTRAL = ("privacy.kind=central", "privacy.noise_multiplier=1")
LOCAL = ("privacy.kind=local", "privacy.noise_multiplier=1")
LORA = ("method=lora-c", "settings.rank=2", "settings.alpha=4")


def shared(folder: Path) -> Tensors:
    return load_file(folder / "shared.safetensors")


def run(results: Path, name: str, *words: str) -> RunRecord:
    return simulate(tiny_config(*words), name, results)


def test_the_same_seed_gives_the_same_noise(tmp_path: Path) -> None:
    for name in ("one", "again"):
        run(tmp_path, name, *CENTRAL)
    one, again = shared(tmp_path / "one"), shared(tmp_path / "again")
    assert all(torch.equal(one[name], again[name]) for name in one)
    run(tmp_path, "plain")
    assert any(not torch.equal(one[name], value) for name, value in shared(tmp_path / "plain").items())


@pytest.mark.parametrize("method", [("aggregation=mean",), LORA])
def test_a_wide_clip_without_noise_is_federated_averaging_with_equal_weights(
    method: tuple[str, ...], tmp_path: Path
) -> None:
    # All users of `tiny_config` have as many examples.
    run(tmp_path, "plain", *method, "rounds=1")
    run(tmp_path, "wide", *method, "rounds=1", "privacy.kind=central", "privacy.noise_multiplier=0", "privacy.clip=1e6")
    for name, value in shared(tmp_path / "plain").items():
        assert torch.allclose(shared(tmp_path / "wide")[name], value, atol=1e-6), name


def test_without_noise_a_round_moves_no_further_than_the_clip(tmp_path: Path) -> None:
    words = (*LORA, "rounds=1", "privacy.kind=central", "privacy.noise_multiplier=0", "privacy.clip=0.001")
    run(tmp_path, "run", *words)
    config = tiny_config(*words)
    method = load_method(config.method, config.method_values(), config.settings, [])
    moved = minus(shared(tmp_path / "run"), travelling(method.server_init(read_shape("tiny"))))
    length = float(torch.cat([value.flatten() for value in moved.values()]).norm())
    assert 0 < length <= 0.001 * (1 + 1e-4)


def test_the_record_the_table_and_every_round_state_epsilon(tmp_path: Path) -> None:
    record = run(tmp_path, "run", *CENTRAL, "rounds=3", "privacy.clip_quantile=0.5")
    rounds = pq.read_table(tmp_path / "run" / "rounds.parquet").to_pylist()
    spent = [dict(row["metrics"])["privacy.epsilon"] for row in rounds]
    assert spent == sorted(spent)
    assert record.privacy is not None
    assert record.privacy.epsilon == spent[-1]
    clips = [dict(row["metrics"])["privacy.clip"] for row in rounds]
    assert clips[0] == 1.0
    assert len({*clips, record.privacy.clip}) == 4  # C changed after every round
    assert f"(ε = {spent[-1]:.3g}, δ = 1e-05)-differentially private" in str(quality_table(record).caption)


def test_a_target_ends_stage_1_early_and_personalises_from_there(tmp_path: Path) -> None:
    record = run(tmp_path, "run", *CENTRAL, "rounds=3", "privacy.target_epsilon=15")
    rounds = pq.read_table(tmp_path / "run" / "rounds.parquet").to_pylist()
    assert 0 < len(rounds) < 3
    assert record.privacy is not None
    assert record.privacy.epsilon is not None
    assert record.privacy.epsilon <= 15
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert f"stage 1 ends after round {len(rounds)}, to keep to privacy.target_epsilon" in notes
    assert record.metrics


@pytest.mark.parametrize("words", [("aggregation=mean",), LORA, ("wire.up=int8",)])
def test_local_noise_is_in_the_message_itself(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, "plain", *words, "rounds=1")
    record = run(tmp_path, "local", *words, *LOCAL, "rounds=1", "privacy.clip=100")
    assert record.privacy is not None
    assert record.privacy.kind == "local"
    # Noise of deviation 100 on every number is not to be mistaken for training.
    far, near = (
        max(float(value.abs().max()) for name, value in shared(tmp_path / folder).items() if not name.endswith(".R"))
        for folder in ("local", "plain")
    )
    assert far > 10 * near


def test_an_update_is_clipped_before_it_leaves_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*LORA, "rounds=1", "privacy.kind=local", "privacy.noise_multiplier=0", "privacy.clip=0.001")
    received: list[Tensors] = []
    add = Updates.add

    def spy(self: Updates, reply: ClientReply) -> None:
        received.append(minus(reply.shared, self._aggregator.expected))
        add(self, reply)

    monkeypatch.setattr(Updates, "add", spy)
    run(tmp_path, "run", *words)
    assert len(received) == 3
    assert all(clipped(update, 0.001 * (1 + 1e-4))[1] for update in received)


@pytest.mark.parametrize("method", ["flora", "fedex-lora", "chameleon", "p2p"])
def test_methods_without_a_mean_are_refused_by_name(method: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"privacy.kind='central': {method} needs each client's own tensors"):
        run(tmp_path, "run", f"method={method}", *CENTRAL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["privacy.kind=central"], "needs noise_multiplier or target_epsilon"),
        (["privacy.clip=2"], "clip needs kind"),
        (["privacy.kind=central,local", "privacy.noise_multiplier=1"], "should be 'none', 'central' or 'local'"),
        ([*CENTRAL[:1], "privacy.noise_multiplier=0", "privacy.target_epsilon=1"], "has no finite ε"),
        ([*CENTRAL, "privacy.target_epsilon=0.1"], "the first round would exceed it"),
        ([*CENTRAL, "privacy.delta=0.5"], "expected less than 1/6"),
        ([*CENTRAL, "robust.rule=median"], "the updates are clipped and summed"),
        ([*LOCAL, "privacy.clip_quantile=0.5"], "no client knows the others' norms"),
    ],
)
def test_bad_settings_are_refused_before_a_run(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path, "run", *words)
    assert not (tmp_path / "run").exists()


def test_one_users_update_decides_nothing_about_anothers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without privacy an update 100 times longer than the median is rejected; with it, it is clipped as any other.
    train = handlers.train

    def longer(paths: ClientPaths, *rest: Any) -> handlers.Reply:
        reply = train(paths, *rest)
        if paths.partition == 0 and reply.payload:
            for value in reply.payload.tensors.values():
                value.mul_(1e6)
        return reply

    monkeypatch.setattr(handlers, "train", longer)
    run(tmp_path, "run", *LORA, *CENTRAL, "cohort=6", "rounds=1")
    clients = pq.read_table(tmp_path / "run" / "clients.parquet").to_pylist()
    assert not [row for row in clients if (row.get("status") or "").startswith("rejected")]
    # C = 1 and noise of deviation 1 on each of the numbers, both over 6: nowhere near 10⁶ times a step.
    assert max(float(value.abs().max()) for value in shared(tmp_path / "run").values()) < 7


def test_a_round_is_not_released_a_second_time_beyond_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_round, seeds = Stage1._record_round, handlers.derive_seed

    def interrupted(self: Stage1, this: TrainingRound) -> None:
        if this.number == 2:
            raise KeyboardInterrupt
        record_round(self, this)

    def interrupted_at_once(_self: Evaluation) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stage1, "_record_round", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "run", "privacy.kind=central", "privacy.target_epsilon=8", "rounds=3")
    # The second round was released; now its clients answer with other updates.
    monkeypatch.setattr(handlers, "derive_seed", lambda seed, *names: seeds(seed + 1, *names))
    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "personalize", interrupted_at_once)
        with pytest.raises(KeyboardInterrupt):
            resume("run", tmp_path)
    record = resume("run", tmp_path)
    assert record.privacy is not None
    assert record.privacy.rounds == 2
    assert record.privacy.epsilon is not None
    assert record.privacy.epsilon <= 8
    assert "stage 1 ends after round 1, to keep to privacy.target_epsilon" in (
        tmp_path / "run" / "events.jsonl"
    ).read_text(encoding="utf-8")
    # What was sent for the round that was not released is counted.
    ledger = pq.read_table(tmp_path / "run" / "ledger.parquet").to_pylist()
    assert {row["round"] for row in ledger if row["phase"] == "train"} == {1, 2}
    assert [row["round"] for row in pq.read_table(tmp_path / "run" / "rounds.parquet").to_pylist()] == [1, 2]


def test_a_promise_is_that_of_the_run_that_trained_stage_1(tmp_path: Path) -> None:
    run(tmp_path, "plain")
    start = (f"start_from={tmp_path / 'plain'}", "users.overlap=true")
    with pytest.raises(InputError, match=r"privacy.kind='central': stage 1 is that of .*plain, which was trained"):
        run(tmp_path, "noisy", *start, *CENTRAL)
    with pytest.raises(InputError, match=r"secure.aggregation=True: stage 1 is that of .*plain, which was trained"):
        run(tmp_path, "masked", *start, "secure.aggregation=true")
    run(tmp_path, "private", *CENTRAL)
    later = run(tmp_path, "later", f"start_from={tmp_path / 'private'}", "users.overlap=true", *CENTRAL)
    assert later.privacy is not None
