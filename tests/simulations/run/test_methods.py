"""Every shipped method through a whole federation: bytes as in docs/methods.md, privacy, midway evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from safetensors.torch import load_file

from configs.load import CONFIGS
from fl_clients.tools import Tools
from fl_server.record.schema import RunRecord
from simulations.run.simulate import simulate
from tests.conftest import keep_messages, tiny_config

pytestmark = pytest.mark.integration

COLLECTIVE, ROUNDS = 3, 2
"""K and T: every user takes part in every round."""
# tiny: d = 16, 4 blocks, k and v map 16 to 8. LoRA of rank 2 on q, k, v: |A| = 4·2·(16·3), |B| = 4·2·(16 + 8 + 8).
A, B = 4 * 2 * 48, 4 * 2 * 32
P = A + B
CORES = 4 * 3 * 2 * 2
PRIVATE_P = 4 * 2 * ((16 + 16) + (16 + 8))
SITES = 2
SHIFT = SITES * (2 * 4 * 16 + 4)
PERSONAL_SHIFT = SITES * (2 * 2 * 16 + 2)
BOTH_SHIFTS = SITES * (2 * 6 * 16 + 6)
EMBEDDING = 384
LORA = ("settings.rank=2", "settings.alpha=4")
SYNTHETIC = ("dpo", "sft")
"""Their pairs come from the backbone's own texts."""
KEEP_TEXTS = ("pag", "llm-rec")
"""Their private tensors are texts, which are not counted as parameters."""


@pytest.fixture(autouse=True)
def answers_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `tiny`, which continues every text alike, write something else after every prompt."""
    monkeypatch.setattr(Tools, "generate", lambda _self, prompts, _tokens: [f"said {len(text)}" for text in prompts])


# docs/methods.md, "Bytes per client and round", in elements: up; down in round 1 and in round 2; private.
FORMS: dict[str, tuple[int, int, int, int]] = {
    "perfit": (SHIFT, SHIFT, SHIFT, PERSONAL_SHIFT),
    "reft-c": (BOTH_SHIFTS, BOTH_SHIFTS, BOTH_SHIFTS, 0),
    "reft-p": (0, 0, 0, PERSONAL_SHIFT),
    "lora-reft": (P, P, P, PERSONAL_SHIFT),
    "fedreft": (BOTH_SHIFTS, BOTH_SHIFTS, BOTH_SHIFTS, BOTH_SHIFTS),
    "lora-c": (P, P, P, 0),
    "lora-p": (0, 0, 0, PRIVATE_P),
    "oppu": (P, P, P, PRIVATE_P),
    "fdlora": (P, P, P, P + 2),
    "ffa-lora": (B, B, B, 0),
    "fedsa-lora": (A, A, A, P),
    "fed-sb": (CORES, CORES, CORES, 0),
    "p2p": (PERSONAL_SHIFT, PERSONAL_SHIFT, PERSONAL_SHIFT, PERSONAL_SHIFT),
    # The stack of round 1 has rank Σr_k = 6. As factors q needs 6·32, and k and v 6·24 = 144 each, more than their 128.
    "rag": (0, 0, 0, 0),
    "pag": (0, 0, 0, 0),
    "llm-rec": (0, 0, 0, 0),
    "stylevector": (0, 0, 0, 16),
    "dpo": (0, 0, 0, PRIVATE_P),
    "sft": (0, 0, 0, PRIVATE_P),
    "flora": (P, 0, 4 * (6 * 32 + 128 + 128), 0),
    # The residual has rank (K − 1)r = 4: the factors of q need 4·32, those of k and v 4·24; plus Ā and B̄.
    "fedex-lora": (P, P, P + 4 * 4 * (32 + 24 + 24), 0),
}


def run(method: str, results: Path, *words: str) -> RunRecord:
    lora = LORA if "lora" in method or method in ("oppu", "fed-sb", *SYNTHETIC) else ()
    chosen = (f"method={method}", f"users.collective={COLLECTIVE}", f"cohort={COLLECTIVE}", f"rounds={ROUNDS}")
    return simulate(tiny_config(*chosen, *lora, "local.epochs=1", *words), method, results)


class Bare(NamedTuple):
    """One run of a method as it is, and its messages."""

    folder: Path
    record: RunRecord
    messages: list[bytes]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bare]:
    done: dict[str, Bare] = {}

    def get(method: str) -> Bare:
        if method not in done:
            folder = tmp_path_factory.mktemp("bare")
            with pytest.MonkeyPatch.context() as patch:
                messages = keep_messages(patch)
                done[method] = Bare(folder / method, run(method, folder), messages)
        return done[method]

    return get


def test_every_shipped_method_has_a_closed_form() -> None:
    # FLASC and FedSRD use codecs (test_coded_messages.py), rounds of LoFiT and Chameleon differ (test_phases.py), and
    # δ-vectors only have an opening (experiments/analysis).
    assert {*FORMS, "flasc", "fedsrd", "lofit", "chameleon", "delta"} == {
        path.stem for path in (CONFIGS / "methods").glob("*.toml")
    }


@pytest.mark.parametrize("method", FORMS)
def test_payloads_equal_the_closed_form(method: str, bare: Callable[[str], Bare]) -> None:
    up, first, second, private = FORMS[method]
    folder, record, _ = bare(method)
    ledger = pd.read_parquet(folder / "ledger.parquet")
    sums = ledger[ledger.phase == "train"].groupby(["round", "direction"]).payload_bytes.sum().to_dict()
    expected = {(1, "up"): up, (2, "up"): up, (1, "down"): first, (2, "down"): second} if up else {}
    if method == "fdlora":
        # The opening: every θ_p goes up, nothing comes down. With the last θ_s a client has 2βP(T + 1) in total.
        expected |= {(0, "up"): P, (0, "down"): 0}
    if method == "p2p":
        # The opening: every embedding goes up. A newcomer sends its own too.
        expected |= {(0, "up"): EMBEDDING, (0, "down"): 0}
        introduced = ledger[ledger.phase == "introduce"].groupby("direction").payload_bytes.sum().to_dict()
        assert introduced == {"up": 4 * record.users.target * EMBEDDING, "down": 0}
    assert sums == {key: 4 * COLLECTIVE * count for key, count in expected.items()}
    assert record.params.shared == up
    assert record.params.private == private
    kept = load_file(folder / "private" / "4.safetensors") if private else {}
    assert sum(tensor.numel() for tensor in kept.values()) == private
    assert ledger[ledger.phase.isin(["personalize"]) & (ledger.direction == "up")].payload_bytes.sum() == 0


@pytest.mark.parametrize("method", FORMS)
def test_private_stays_private_no_message_carries_a_private_tensor(
    method: str, bare: Callable[[str], Bare], tmp_path: Path, sent_messages: list[bytes]
) -> None:
    if method == "fdlora":  # the other clients' adapters are synchronised after every round
        run(method, tmp_path, "settings.sync_every=1")
        folder, messages = tmp_path / method, sent_messages
    else:
        folder, _, messages = bare(method)
    tensors = [item for file in (folder / "private").iterdir() for item in load_file(file).items()]
    private = [value.numpy().tobytes() for name, value in tensors if name.startswith("private_")]
    # Tensors of zeros, or with a single number, may occur anywhere by chance.
    private = [content for content in private if len(content) > 16 and any(content)]
    # What a user of Profile-to-PEFT keeps is what the server wrote for it.
    assert bool(private) == ((method != "p2p" and bool(FORMS[method][3])) or method in KEEP_TEXTS)
    everything = b"\n".join(messages)
    assert not [content for content in private if content in everything]
    assert {name.partition("_")[0] for name, _ in tensors} <= {"private", "kept"}


@pytest.mark.parametrize("method", FORMS)
def test_midway_evaluation_does_not_change_training(method: str, bare: Callable[[str], Bare], tmp_path: Path) -> None:
    folder, record, _ = bare(method)
    watched = run(method, tmp_path, "evaluate.every=1", "evaluate.point=personalised")
    assert (watched.metrics, watched.metrics_collective) == (record.metrics, record.metrics_collective)
    names = sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))
    assert names
    for name in names:
        assert (tmp_path / method / name).read_bytes() == (folder / name).read_bytes(), name
    predictions = (tmp_path / method / "predictions.jsonl").read_text().splitlines()
    assert len(predictions) == 3 * 3 * 4
    rounds = pd.read_parquet(tmp_path / method / "rounds.parquet")
    if FORMS[method][0]:
        assert "personalised.accuracy" in dict(rounds[rounds["round"] == 1].metrics.iloc[0])


def test_fdloras_clients_keep_what_they_trained_and_sync_it(tmp_path: Path) -> None:
    run("fdlora", tmp_path / "never", "settings.sync_every=9")
    run("fdlora", tmp_path / "last", "settings.sync_every=2")
    kept, synced = (load_file(tmp_path / name / "fdlora" / "private" / "0.safetensors") for name in ("never", "last"))
    assert kept.keys() == synced.keys()
    assert not all(bool((kept[name] == synced[name]).all()) for name in kept)
