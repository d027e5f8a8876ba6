"""Methods whose rounds send different tensors, and that no message of a prompting or steering method has a text."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from configs.errors import InputError
from fl_clients.backbone.batches import Encoder
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.user_table import open_user
from fl_clients.tools import Tools
from simulations.display.tables import quality_table
from simulations.run.simulate import simulate
from strategies.client_tools import Context
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration

# tiny: d = 16, 4 blocks of 2 heads of size 8.
D, BLOCKS, HEADS, SIZE = 16, 4, 2, 8
NOTHING = Context()
CHAMELEON = ("settings.restarts=2", "settings.ccs_steps=4", "settings.layers=2", "settings.items=6")
METHODS = {
    "rag": (),
    "pag": (),
    "llm-rec": (),
    "stylevector": ("settings.federated=true",),
    "lofit": (),
    "chameleon": CHAMELEON,
    "dpo": ("settings.items=4",),
    "sft": ("settings.items=4",),
}


@pytest.fixture(autouse=True)
def answers_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `tiny`, which continues every text alike, write something else after every prompt."""
    monkeypatch.setattr(Tools, "generate", lambda _self, prompts, _tokens: [f"said {len(text)}" for text in prompts])


def payloads(folder: Path) -> dict[tuple[int, str], float]:
    """Return the payload bytes of one client's message, by round and direction."""
    ledger = pd.read_parquet(folder / "ledger.parquet")
    train = ledger[ledger.phase == "train"]
    sums = train.groupby(["round", "direction", "user"]).payload_bytes.sum()
    return dict(sums.groupby(["round", "direction"]).mean())


def test_lofit_sends_scales_then_biases(tmp_path: Path) -> None:
    simulate(tiny_config("method=lofit", "settings.heads=3", "rounds=4"), "lofit", tmp_path)
    scales, biases, ids = 4 * BLOCKS * HEADS * SIZE, 4 * 3 * SIZE, 2 * 3
    assert payloads(tmp_path / "lofit") == {
        **{(number, direction): scales for number in (1, 2) for direction in ("up", "down")},
        **{(number, "up"): biases for number in (3, 4)},
        **{(number, "down"): biases + ids for number in (3, 4)},
    }
    assert set(load_file(tmp_path / "lofit" / "shared.safetensors")) == {"shared_biases.v", "shared_biases.head"}


def test_stylevector_sends_one_vector_once(tmp_path: Path) -> None:
    record = simulate(tiny_config("method=stylevector", "settings.federated=true"), "style", tmp_path)
    assert payloads(tmp_path / "style") == {(0, "up"): 4 * D, (0, "down"): 0}
    ledger = pd.read_parquet(tmp_path / "style" / "ledger.parquet")
    down = ledger[(ledger.phase == "personalize") & (ledger.direction == "down")]
    assert set(down.groupby("user").payload_bytes.sum()) == {4 * D}
    assert record.params.shared == D


def test_chameleon_sends_sketches_probes_and_directions(tmp_path: Path) -> None:
    record = simulate(tiny_config("method=chameleon", *CHAMELEON, "rounds=2"), "chameleon", tmp_path)
    opening = 4 * (4 * BLOCKS * D + 2 * BLOCKS * D + 2)
    probes = 4 * (2 * BLOCKS * (D + 2) + 1)
    means = 4 * 2 * BLOCKS * D
    assert payloads(tmp_path / "chameleon") == {
        (0, "up"): opening,
        (0, "down"): 0,
        **{(number, "up"): probes for number in (1, 2)},
        **{(number, "down"): probes + means for number in (1, 2)},
    }
    ledger = pd.read_parquet(tmp_path / "chameleon" / "ledger.parquet")
    down = ledger[(ledger.phase == "personalize") & (ledger.direction == "down")]
    assert set(down.groupby("user").payload_bytes.sum()) == {2 * (2 * 4 * D + 2)}
    rounds = pd.read_parquet(tmp_path / "chameleon" / "rounds.parquet")
    first, last = (dict(rounds[rounds["round"] == number].metrics.iloc[0]) for number in (0, 2))
    assert {"aggregation.pairs", "aggregation.discarded"} <= set(first)
    assert {"aggregation.ccs_loss", "aggregation.layer.0", "aggregation.layer.1"} <= set(last)
    clients = pd.read_parquet(tmp_path / "chameleon" / "clients.parquet")
    figures = pd.DataFrame([dict(metrics) for metrics in clients[clients.phase == "personalize"].metrics])
    means = {name: figures[f"method.{name}"].mean() for name in ("loss_before", "loss_after")}
    assert record.figures == pytest.approx(means)
    caption = f"the method's own figures, means over users: loss_before {means['loss_before']:.3g}"
    assert caption in str(quality_table(record).caption)


@pytest.mark.parametrize("method", METHODS)
def test_no_message_has_a_text_or_a_state(
    method: str, tmp_path: Path, sent_messages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[torch.Tensor] = []
    for name in ("states", "embed"):
        genuine = getattr(Tools, name)

        def kept(self: Tools, *args: Any, genuine: Any = genuine) -> torch.Tensor:
            computed.append(genuine(self, *args))
            return computed[-1]

        monkeypatch.setattr(Tools, name, kept)
    config = tiny_config(f"method={method}", *METHODS[method], "users.synthetic.history=7")
    record = simulate(config, "run", tmp_path)
    everything = b"\n".join(sent_messages)
    users = record.users.collective + record.users.target
    table = build_table(config).folder
    opened = [open_user(table, partition) for partition in range(users)]
    texts = [pair.source for user in opened for pair in (*user.history, *user.queries)] + ["said "]
    assert not [text for text in texts if text.encode() in everything]
    for tensor in computed:
        for row in tensor.reshape(-1, tensor.shape[-1]):
            assert row.numpy().tobytes() not in everything
    assert bool(computed) == (method in ("stylevector", "chameleon", "dpo", "sft"))


@pytest.mark.parametrize("method", METHODS)
def test_a_user_without_history_is_served_by_what_everybody_has(method: str, tmp_path: Path) -> None:
    words = (f"method={method}", *METHODS[method], "users.target_history=0")
    record = simulate(tiny_config(*words), "run", tmp_path)
    assert record.metrics == record.metrics_collective
    clients = pd.read_parquet(tmp_path / "run" / "clients.parquet")
    assert set(clients[clients.phase == "personalize"].status) == {"no_history"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("method=rag", "settings.k=0"), r"settings.k=0: expected at least 1"),
        (("method=pag", "settings.about=hobbies"), r"settings.about='hobbies': input should be 'profile'"),
        (("method=stylevector", "settings.depth=1.5"), r"settings.depth=1.5: expected a share"),
        (("method=lofit", "rounds=1"), r"rounds=1: lofit needs one to choose"),
        (("method=lofit", "wire.up=int8"), r"wire.up='int8': lofit sends other tensors in some rounds"),
        (("method=chameleon", "server.optimizer=nesterov"), r"chameleon sends other tensors in some rounds"),
        (("method=lofit", "local.keep_moments=true"), r"local.keep_moments=true: lofit trains other tensors in some"),
        (("method=chameleon", "settings.embedder=all-minilm"), r"did you mean 'all-minilm-l6-v2'"),
        (("method=dpo", "settings.beta=0.0"), r"settings.beta=0.0: expected a number above 0"),
        (("history.retrieve=-1",), r"history.retrieve"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_settings_are_refused_before_any_work(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        simulate(tiny_config(*words), "run", tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of PerFit, one with retrieved items."""
    folder = tmp_path_factory.mktemp("both")
    for name, k in (("bare", 0), ("retrieved", 2)):
        simulate(tiny_config(f"history.retrieve={k}"), name, folder)
    return folder


def test_retrieved_items_change_the_training_of_any_method_and_not_the_bare_backbone(both: Path) -> None:
    bare, retrieved = (load_file(both / name / "shared.safetensors") for name in ("bare", "retrieved"))
    assert any(not torch.equal(bare[name], retrieved[name]) for name in bare)
    predictions = [pd.read_json(both / name / "predictions.jsonl", lines=True) for name in ("bare", "retrieved")]
    base = [table[table.stage == "base"].prediction.tolist() for table in predictions]
    assert base[0] == base[1]


def test_a_summary_and_retrieved_items_precede_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[Context] = []
    genuine = Encoder.prompt

    def kept(self: Encoder, source: str, room: int, context: Context = NOTHING) -> tuple[list[int], bool]:
        contexts.append(context)
        return genuine(self, source, room, context)

    monkeypatch.setattr(Encoder, "prompt", kept)
    simulate(tiny_config("method=llm-rec", "history.retrieve=2"), "run", tmp_path)
    assert {len(context.items) for context in contexts if context.profile} == {2}


def test_lofit_alone_counts_the_steps_of_both_its_trainings(tmp_path: Path) -> None:
    words = ("method=lofit", "settings.federated=false", "users.target_history=4", "personal.batch_size=2")
    simulate(tiny_config(*words, "personal.epochs=3"), "run", tmp_path)
    clients = pd.read_parquet(tmp_path / "run" / "clients.parquet")
    assert set(clients[clients.phase == "personalize"].steps) == {2 * 3 * 4 // 2}
