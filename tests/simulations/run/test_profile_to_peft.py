"""Profile-to-PEFT through whole federations: what travels, newcomers, controls, both designs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from configs.errors import InputError, RunFailed
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.user_table import open_user
from fl_clients.tools import Tools
from fl_server.newcomers import Newcomers
from fl_server.record.schema import RunRecord
from simulations.exports.chat import Chat
from simulations.exports.export import export
from simulations.run.served import load_served_model
from simulations.run.simulate import resume, simulate
from strategies.method import Tensors
from strategies.p2p import ProfileToPeft
from tests.conftest import tiny_config
from tests.same import assert_same_run

pytestmark = pytest.mark.integration
SMALL = ("method=p2p", "settings.latent=8", "settings.head=4", "settings.items=2")
LORA = ("settings.output=lora", "settings.rank=2")
AT_CLIENT = ("settings.design=client",)
# tiny: d = 16, two sites, a shift of rank 2.
ADAPTER = 2 * (2 * 2 * 16 + 2)


def run(folder: Path, *words: str, name: str = "p2p") -> RunRecord:
    return simulate(tiny_config(*SMALL, *words), name, folder)


def sums(folder: Path) -> dict[tuple[str, str], int]:
    ledger = pd.read_parquet(folder / "ledger.parquet")
    found = ledger.groupby(["phase", "direction"]).payload_bytes.sum()
    return {key: int(value) for key, value in found.items()}


def test_a_newcomer_sends_an_embedding_gets_an_adapter_and_trains_nothing(tmp_path: Path) -> None:
    record = run(tmp_path)
    counted = sums(tmp_path / "p2p")
    assert (counted["introduce", "up"], counted["introduce", "down"]) == (3 * 4 * 384, 0)
    assert (counted["personalize", "down"], counted["personalize", "up"]) == (3 * 4 * ADAPTER, 0)
    clients = pd.read_parquet(tmp_path / "p2p" / "clients.parquet")
    assert set(clients[clients.phase == "personalize"].steps) == {0}
    assert record.metrics == record.metrics_collective
    assert record.controls.keys() == {"random profile", "mean profile", "another's profile"}
    assert all(values.keys() == record.metrics.keys() for values in record.controls.values())
    assert record.params.shared == record.params.private == ADAPTER


def test_the_network_learns_and_users_get_different_adapters(tmp_path: Path) -> None:
    run(tmp_path, "settings.outer_lr=0.05", "rounds=3")
    kept = [load_file(tmp_path / "p2p" / "private" / f"{user}.safetensors") for user in (6, 7, 8)]
    assert all(
        set(tensors) == {f"kept_adapter.{site}.{letter}" for site in (1, 2) for letter in "RWb"} for tensors in kept
    )
    assert not torch.equal(kept[0]["kept_adapter.1.W"], kept[1]["kept_adapter.1.W"])
    for tensors in kept:
        R = tensors["kept_adapter.1.R"]
        torch.testing.assert_close(R @ R.T, torch.eye(2))


def test_the_embedding_travels_once_and_no_text_ever(
    tmp_path: Path, sent_messages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[torch.Tensor] = []
    genuine = Tools.embed

    def kept(self: Tools, *args: Any) -> torch.Tensor:
        embedded.append(genuine(self, *args)[0] * 384**0.5)
        return genuine(self, *args)

    monkeypatch.setattr(Tools, "embed", kept)
    config = tiny_config(*SMALL)
    simulate(config, "p2p", tmp_path)
    everything = b"\n".join(sent_messages)
    # Six collective users and three newcomers.
    assert [everything.count(profile.numpy().tobytes()) for profile in embedded] == [1] * 9
    table = build_table(config).folder
    texts = [pair.source for user in range(9) for pair in open_user(table, user).history]
    assert not [text for text in texts if text.encode() in everything]


@pytest.mark.parametrize("output", [(), LORA], ids=["shift", "lora"])
def test_with_the_network_on_clients_no_embedding_is_sent(
    output: tuple[str, ...], tmp_path: Path, sent_messages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[bytes] = []
    genuine = Tools.embed

    def kept(self: Tools, *args: Any) -> torch.Tensor:
        found = genuine(self, *args)
        embedded.extend(each.numpy().tobytes() for each in (found[0], found[0] * 384**0.5))
        return found

    monkeypatch.setattr(Tools, "embed", kept)
    record = run(tmp_path, *AT_CLIENT, *output)
    assert embedded
    assert not [profile for profile in embedded if profile in b"\n".join(sent_messages)]
    assert record.controls.keys() == {"random profile"}
    shared = load_file(tmp_path / "p2p" / "shared.safetensors")
    weights = {name: value for name, value in shared.items() if name.startswith("shared_")}
    assert sum(value.numel() for value in weights.values()) == record.params.shared
    begin = run(tmp_path, *AT_CLIENT, *output, "seed=0", "local.lr=1e-12", name="still")
    still = load_file(tmp_path / "still" / "shared.safetensors")
    assert begin.params.shared == record.params.shared
    assert any(not torch.allclose(weights[name], still[name], atol=1e-6) for name in weights)


def test_a_network_on_clients_is_coded_and_one_at_the_server_is_not(tmp_path: Path) -> None:
    raw, coded = run(tmp_path, *AT_CLIENT), run(tmp_path, *AT_CLIENT, "wire.up=int4", "wire.down=int8", name="coded")
    assert coded.bytes.payload_up < raw.bytes.payload_up / 6
    assert coded.bytes.payload_down < raw.bytes.payload_down / 2
    assert coded.controls.keys() == {"random profile"}
    # A control's adapter is measured as it is.
    ledger = pd.read_parquet(tmp_path / "coded" / "ledger.parquet")
    assert set(ledger[(ledger.phase == "evaluate") & (ledger.direction == "down")].codec) == {"raw"}
    with pytest.raises(InputError, match="p2p keeps clients' updates separate, or sends each something else"):
        run(tmp_path, "wire.up=int4", name="refused")


def test_a_newcomer_without_history_gets_the_mean_profiles_adapter(tmp_path: Path) -> None:
    record = run(tmp_path, "users.target_history=0", "settings.outer_lr=0.05")
    assert record.metrics == record.controls["mean profile"]
    clients = pd.read_parquet(tmp_path / "p2p" / "clients.parquet")
    assert set(clients[clients.phase == "introduce"].status) == {"no_history"}


def test_refined_adapters_are_private_and_trained(tmp_path: Path) -> None:
    run(tmp_path, "settings.refine=true")
    clients = pd.read_parquet(tmp_path / "p2p" / "clients.parquet")
    assert (clients[clients.phase == "personalize"].steps > 0).all()
    assert all(name.startswith("private_") for name in load_file(tmp_path / "p2p" / "private" / "6.safetensors"))


def test_noise_changes_what_is_sent_and_is_the_same_again(tmp_path: Path) -> None:
    digests = []
    for number, noise in enumerate((0.0, 0.5, 0.5)):
        run(tmp_path, f"settings.noise={noise}", "settings.outer_lr=0.05", name=str(number))
        digests.append((tmp_path / str(number) / "shared.safetensors").read_bytes())
    assert digests[0] != digests[1] == digests[2]


def test_a_run_stopped_after_the_introduction_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Newcomers, "controls", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped")
    resume("p2p", tmp_path / "stopped")
    assert_same_run(tmp_path / "whole" / "p2p", tmp_path / "stopped" / "p2p")


def test_a_run_stopped_in_a_midway_evaluation_does_not_apply_the_round_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    midway = ("evaluate.every=1", "settings.outer_lr=0.05")
    run(tmp_path / "whole", *midway)
    with monkeypatch.context() as patch:
        patch.setattr(Newcomers, "send", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", *midway)
    resume("p2p", tmp_path / "stopped")
    assert_same_run(tmp_path / "whole" / "p2p", tmp_path / "stopped" / "p2p")


@pytest.mark.parametrize("words", [(), LORA, AT_CLIENT], ids=["shift", "lora", "client"])
def test_exports_and_chat_serve_what_the_run_did(words: tuple[str, ...], tmp_path: Path) -> None:
    config = tiny_config(*SMALL, *words, "settings.outer_lr=0.05")
    simulate(config, "p2p", tmp_path)
    user = str(pd.read_parquet(tmp_path / "p2p" / "users.parquet").user_id[6])
    chat = Chat(load_served_model(tmp_path / "p2p", user))
    questions = {query.item_id: query.source for query in open_user(build_table(config).folder, 6).queries}
    rows = [json.loads(line) for line in (tmp_path / "p2p" / "predictions.jsonl").read_text().splitlines()]
    own = [row for row in rows if row["user"] == 6 and row["stage"] == "personalised"]
    assert own
    assert all(chat.answer(questions[row["query"]])["personalised"] == row["prediction"] for row in own)
    out = export(tmp_path / "p2p", user, "peft" if words == LORA else "pyreft", tmp_path / "out")
    # A network on the server exports the mean profile's adapter for everybody, and the card has its score.
    assert ("| collective: the adapter of the mean profile |" in (out / "README.md").read_text()) == (
        words != AT_CLIENT
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("settings.design=cloud",), r"settings.design='cloud': input should be 'server' or 'client'"),
        (("settings.contents=items", "settings.items=0"), r"settings.items=0: a profile of items, or a summary"),
        (("settings.components=-1", *AT_CLIENT), r"components=-1"),
        (("settings.components=385",), r"settings.components=385: a profile has 384 numbers"),
        (("settings.latent=3",), "settings.latent=3: expected a positive multiple of 4"),
        (("settings.embedder=words2",), "did you mean 'words'"),
        (("settings.outer_optimizer=yogi",), r"settings.outer_lr=1: yogi moves every number by about this much"),
        (("settings.outer_lr=0.0",), r"settings.outer_lr=0.0: expected more than 0"),
        (("settings.noise=0.1", "settings.design=client"), "no profile is sent"),
        (("settings.output=lora", "settings.targets=['q_proj','gate']"), "no module 'gate' in the backbone"),
        (("wire.up=int8",), r"wire.up='int8': p2p keeps clients' updates separate"),
        (("server.optimizer=adam", "server.lr=0.01"), "p2p keeps clients' updates separate"),
        (("settings.output=lora", "settings.targets=['q_proj','q_proj']"), "a module name is given twice"),
        (("robust.rule=clip",), "robust.rule='clip': p2p's clients have no common start"),
        (("users.held_out=1",), "users.held_out=1: what p2p serves depends"),
        (("keep=best", "users.held_out=1", *AT_CLIENT), "users.held_out=1: what p2p serves depends"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_settings_are_refused_before_any_work(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path, *words)
    assert not (tmp_path / "p2p").exists()


def test_a_run_does_not_start_from_one_with_another_embedder(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(
        InputError, match=r"does not fit: settings\.embedder: 'words' in that run, 'backbone' in this one"
    ):
        run(tmp_path, "settings.embedder=backbone", f"start_from={tmp_path / 'p2p'}", name="other")


def test_newcomers_of_an_earlier_run_refine_what_they_were_sent(tmp_path: Path) -> None:
    served = run(tmp_path)
    refined = run(tmp_path, "settings.refine=true", f"start_from={tmp_path / 'p2p'}", name="refined")
    assert refined.metrics_collective == served.metrics_collective
    clients = pd.read_parquet(tmp_path / "refined" / "clients.parquet")
    assert clients[clients.phase == "personalize"].steps.all()


def test_newcomers_of_an_earlier_run_have_its_network_on_the_clients_too(tmp_path: Path) -> None:
    whole = run(tmp_path, *AT_CLIENT)
    again = run(tmp_path, *AT_CLIENT, f"start_from={tmp_path / 'p2p'}", name="again")
    assert (again.metrics, again.controls) == (whole.metrics, whole.controls)


def test_the_servers_steps_are_those_of_training_the_network_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `design=client` a client's step is one of SGD on Ψ, through the adapter it writes and the whole backbone."""
    sgd = ("local.optimizer=sgd", "local.momentum=0", "local.clip=1e9", "local.lr=5", "local.batch_size=100")
    same = (*LORA, *sgd, "settings.components=0", "settings.dropout=0", "cohort=6", "rounds=2")
    # A server reads a profile relative to all others, which a client does not know.
    monkeypatch.setattr(
        "strategies.hypernetwork.at_server.read",
        lambda _state, profile, width, _components: torch.zeros(width) if profile is None else profile,
    )
    run(tmp_path, *same, name="server")
    run(tmp_path, *same, *AT_CLIENT, name="central")
    begin = run(tmp_path, *same, *AT_CLIENT, "local.lr=1e-12", name="begin")
    assert begin.params.shared
    at_server, central, before = (
        {name.split("_network.")[1]: v for name, v in load_file(path).items() if "_network." in name}
        for path in (tmp_path / name / "shared.safetensors" for name in ("server", "central", "begin"))
    )
    assert at_server.keys() == central.keys()
    for name, value in central.items():
        # What the client changed is a difference of rounded numbers.
        assert float((at_server[name] - value).norm()) <= 1e-3 * float((value - before[name]).norm()) + 1e-6, name
    assert sum(bool((value - before[name]).abs().max() > 1e-6) for name, value in central.items()) > 2


def test_noise_follows_from_what_only_the_client_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for secret in (1, 2, 2):  # on real devices a number that they keep
        monkeypatch.setattr("fl_clients.handlers.noise_secret", lambda *_, secret=secret: secret)
        run(tmp_path, "settings.noise=0.5", "settings.outer_lr=0.05", name="noisy")
        digests.append((tmp_path / "noisy" / "shared.safetensors").read_bytes())
        shutil.rmtree(tmp_path / "noisy")
    assert digests[0] != digests[1] == digests[2]


def test_a_network_that_diverges_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        RunFailed, match=r"^(the network writes a shift that is degenerate|round \d: the server's tensors)"
    ):
        run(tmp_path, "settings.outer_lr=1e30", "rounds=3")


def test_anothers_profile_is_another_newcomers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine, pairs = ProfileToPeft.server_controls, set[tuple[int, int | None]]()

    def kept(self: ProfileToPeft, state: Tensors, user: int, other: int | None) -> Any:
        pairs.add((user, other))
        return genuine(self, state, user, other)

    monkeypatch.setattr(ProfileToPeft, "server_controls", kept)
    run(tmp_path, "users.target=4")
    # Half of the four newcomers away, in both directions.
    assert pairs == {(6, 8), (7, 9), (8, 6), (9, 7)}
    pairs.clear()
    assert run(tmp_path, "users.target=1", name="alone").controls.keys() == {"random profile", "mean profile"}
    assert pairs == {(6, None)}
