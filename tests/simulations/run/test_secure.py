"""Secure aggregation in whole runs: the sum is right despite dropouts, and the server sees nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from configs.errors import InputError, RunFailed
from fl_clients import handlers
from fl_server.stage_1 import Stage1
from simulations.run.simulate import resume, simulate
from strategies.method import Tensors
from strategies.secure.keys import SEALED_BYTES
from strategies.secure.ring import Ring
from tests.conftest import movie, tiny_config, write_lamp

pytestmark = pytest.mark.integration
SECURE = ("secure.aggregation=true", "cohort=6", "rounds=1", "faults.retries=0", "faults.min_replies=4")
PLAIN = SECURE[1:]
LORA = ("method=lora-c", "settings.rank=2", "settings.alpha=4")


def shared(folder: Path) -> Tensors:
    return load_file(folder / "shared.safetensors")


def failing(users: set[int], handler: Callable[..., handlers.Reply]) -> Callable[..., handlers.Reply]:
    """Return a handler that fails for some users."""

    def handle(paths: Any, *rest: Any) -> handlers.Reply:
        if paths.partition in users:
            raise MemoryError("this device went away")
        return handler(paths, *rest)

    return handle


@pytest.mark.parametrize("words", [(), LORA, ("method=oppu", "settings.rank=2", "wire.down=int8")], ids=str)
def test_the_mean_is_that_of_plain_updates_to_the_step(
    words: tuple[str, ...], finished: Callable[..., Path], tmp_path: Path
) -> None:
    plain = finished(*PLAIN, *words)
    simulate(tiny_config(*SECURE, *words), "secure", tmp_path)
    for name, value in shared(plain).items():
        # 3 bytes for 6 users: steps of 2/2,796,202, and a rounding of R's retraction.
        assert torch.allclose(shared(tmp_path / "secure")[name], value, atol=5e-6), name


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Callable[[set[int]], Path]:
    """Return a function that gives a plain run in which some users fail; each is made once."""
    done: dict[frozenset[int], Path] = {}

    def get(gone: set[int]) -> Path:
        key = frozenset(gone)
        if key not in done:
            done[key] = tmp_path_factory.mktemp("plain") / "plain"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(handlers, "train", failing(gone, handlers.train))
                simulate(tiny_config(*PLAIN), "plain", done[key].parent)
        return done[key]

    return get


@pytest.mark.parametrize("gone", [{0}, {1, 5}], ids=["one", "as many as the threshold allows"])
@pytest.mark.parametrize("step", ["secure_keys", "secure_shares", "train"])
def test_users_who_drop_out_are_left_out_of_the_sum(
    step: str, gone: set[int], without: Callable[[set[int]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = without(gone)
    monkeypatch.setattr(handlers, step, failing(gone, getattr(handlers, step)))
    record = simulate(tiny_config(*SECURE), "secure", tmp_path)
    for name, value in shared(plain).items():
        assert torch.allclose(shared(tmp_path / "secure")[name], value, atol=5e-6), name
    rows = pq.read_table(tmp_path / "secure" / "clients.parquet").to_pylist()
    assert {row["user"] for row in rows if row["status"] == "failed"} == gone
    assert record.left_out == len(gone)


@pytest.mark.parametrize(
    "wrong",
    [bytes(64), b"short", bytes([1, *[0] * 63])],
    ids=["of low order", "of another length", "half of low order"],
)
def test_a_client_with_keys_that_nobody_can_use_costs_its_own_update_only(
    wrong: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = handlers.secure_keys

    def keys(paths: Any, *rest: Any) -> handlers.Reply:
        reply = drawn(paths, *rest)
        return replace(reply, secure={2: wrong}) if paths.partition == 2 else reply

    monkeypatch.setattr(handlers, "secure_keys", keys)
    record = simulate(tiny_config(*SECURE), "secure", tmp_path)
    rows = pq.read_table(tmp_path / "secure" / "clients.parquet").to_pylist()
    refused = [(row["phase"], row["user"], row["status"]) for row in rows if row["status"] != "ok"]
    assert refused == [("keys", 2, "rejected: no valid keys of its own")]
    assert record.left_out == 1


@pytest.mark.parametrize("wrong", [None, b"short"], ids=["a missing share", "short shares"])
def test_who_sends_no_share_is_named(wrong: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = handlers.secure_shares

    def shares(paths: Any, *rest: Any) -> handlers.Reply:
        reply = shared(paths, *rest)
        sent = list(reply.secure.items())
        changed = dict(sent[1:]) if wrong is None else dict.fromkeys(reply.secure, wrong)
        return replace(reply, secure=changed) if paths.partition == 3 else reply

    monkeypatch.setattr(handlers, "secure_shares", shares)
    simulate(tiny_config(*SECURE), "secure", tmp_path)
    rows = pq.read_table(tmp_path / "secure" / "clients.parquet").to_pylist()
    refused = [(row["phase"], row["user"], row["status"]) for row in rows if row["status"] != "ok"]
    assert refused == [("shares", 3, "rejected: no share for every other user")]


@pytest.mark.parametrize("misled", [1, 5])
def test_shares_that_nobody_can_read_are_their_senders_fault(
    misled: int, finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, given = finished(*PLAIN), handlers.secure_shares

    def shares(paths: Any, *rest: Any) -> handlers.Reply:
        reply = given(paths, *rest)
        wrong = dict.fromkeys(list(reply.secure)[:misled], b"\1" * SEALED_BYTES)
        return replace(reply, secure=reply.secure | wrong) if paths.partition == 3 else reply

    monkeypatch.setattr(handlers, "secure_shares", shares)
    if misled == 5:
        with pytest.raises(RunFailed, match=r"1 user can read what user 3 sent for unmasking, .* needs 4"):
            simulate(tiny_config(*SECURE), "secure", tmp_path)
        return
    # Those of the four others and its own are enough.
    simulate(tiny_config(*SECURE), "secure", tmp_path)
    for name, value in shared(plain).items():
        assert torch.allclose(shared(tmp_path / "secure")[name], value, atol=5e-6), name


def test_users_may_go_away_once_their_update_has_come(
    finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = finished(*PLAIN)
    monkeypatch.setattr(handlers, "secure_unmask", failing({2, 3}, handlers.secure_unmask))
    simulate(tiny_config(*SECURE), "secure", tmp_path)
    for name, value in shared(plain).items():
        assert torch.allclose(shared(tmp_path / "secure")[name], value, atol=5e-6), name


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("secure_keys", "round 1: 3 users sent keys, secure.threshold needs 4"),
        ("secure_shares", "round 1: 3 users sent shares, secure.threshold needs 4"),
        ("train", "round 1: 3 users sent an update, secure.threshold needs 4"),
        ("secure_unmask", "round 1: 3 users answered the unmask request, secure.threshold needs 4"),
    ],
)
def test_with_too_few_users_nothing_is_read(
    step: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, step, failing({0, 1, 2}, getattr(handlers, step)))
    with pytest.raises(RunFailed, match=message):
        simulate(tiny_config(*SECURE, "faults.min_replies=1"), "secure", tmp_path)


def test_no_single_update_is_in_anything_that_the_server_holds(
    tmp_path: Path, sent_messages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: list[np.ndarray] = []
    encode = Ring.encode

    def spy(self: Ring, values: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
        integers, cut = encode(self, values, seed)
        plain.append(integers)
        return integers, cut

    monkeypatch.setattr(Ring, "encode", spy)
    simulate(tiny_config(*SECURE, "secure.bytes=4"), "run", tmp_path)
    assert len(plain) == 6
    held = [*sent_messages]
    held += [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    for integers in plain:
        # Eight numbers in a row are no accident; those that training left at 0 are the same for everybody.
        moved = np.flatnonzero(np.diff(integers.astype(np.int64)))
        start = int(moved[0])
        piece = integers[start : start + 8].astype("<u4").tobytes()
        assert len(set(integers[start : start + 8].tolist())) > 2
        assert not any(piece in content for content in held)
    # The same search finds updates whose masks are 0.
    monkeypatch.setattr(Ring, "mask", lambda _self, _seed, count: np.zeros(count, np.uint32))
    simulate(tiny_config(*SECURE, "secure.bytes=4"), "bare", tmp_path)
    assert any(piece in content for content in sent_messages)


def test_a_round_that_cannot_be_used_is_not_opened_and_its_repetition_has_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = tuple(word for word in SECURE if "min_replies" not in word)
    simulate(tiny_config(*words), "undisturbed", tmp_path)
    opened: list[int] = []
    unmask = handlers.secure_unmask

    def spy(paths: Any, *rest: Any) -> handlers.Reply:
        opened.append(paths.partition)
        return unmask(paths, *rest)

    monkeypatch.setattr(handlers, "secure_unmask", spy)
    with monkeypatch.context() as patch:
        patch.setattr(handlers, "train", failing({0}, handlers.train))
        with pytest.raises(RunFailed, match="1 of 6 clients failed"):
            simulate(tiny_config(*words), "run", tmp_path)
    # The sum without user 0, and later the one with it, would tell its update.
    assert not opened
    resume("run", tmp_path)
    assert len(opened) == 6
    assert (tmp_path / "run" / "shared.safetensors").read_bytes() == (
        tmp_path / "undisturbed" / "shared.safetensors"
    ).read_bytes()


def test_a_sum_that_was_opened_before_an_interruption_is_the_only_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(handlers, "train", failing({0}, handlers.train))
        patch.setattr(Stage1, "_record_round", interrupted)
        with pytest.raises(KeyboardInterrupt):
            simulate(tiny_config(*SECURE), "run", tmp_path)
    with pytest.raises(RunFailed, match="the sum of users 1, 2, 3, 4, 5 was opened, and clients refuse to help"):
        resume("run", tmp_path)
    monkeypatch.setattr(handlers, "train", failing({0}, handlers.train))
    assert resume("run", tmp_path).status == "completed"


def test_bytes_have_room_for_all_who_begin_a_round(tmp_path: Path) -> None:
    phones = ("devices.preset=phones", "devices.over_selection=0.19", "users.collective=132", "cohort=110")
    with pytest.raises(InputError, match=r"secure.bytes=1: no room for the sum of 131 users"):
        simulate(tiny_config("secure.aggregation=true", "secure.bytes=1", *phones), "run", tmp_path)


def test_messages_have_as_many_bytes_as_the_formula(tmp_path: Path) -> None:
    record = simulate(tiny_config(*SECURE, "secure.bytes=2"), "run", tmp_path)
    ledger = pq.read_table(tmp_path / "run" / "ledger.parquet").to_pylist()
    sent = [row for row in ledger if (row["phase"], row["direction"]) == ("train", "up")]
    assert {row["payload_bytes"] for row in sent} == {2 * record.params.shared}
    counts = {
        phase: len([row for row in ledger if row["phase"] == phase]) for phase in ("keys", "shares", "train", "unmask")
    }
    down_groups = len({row["group"] for row in ledger if (row["phase"], row["direction"]) == ("train", "down")})
    assert counts == {"keys": 12, "shares": 12, "train": 6 + 6 * down_groups, "unmask": 12}
    # A client sends five others 12 + 104 + 16 encrypted bytes each.
    shares = [row["message_bytes"] for row in ledger if (row["phase"], row["direction"]) == ("shares", "up")]
    keys = [row["message_bytes"] for row in ledger if (row["phase"], row["direction"]) == ("keys", "up")]
    assert min(shares) - min(keys) > 5 * 132 - 64


def test_users_count_by_their_examples(tmp_path: Path) -> None:
    people = [movie(f"{user}0", text=f"Story {user}.", history=2 + 3 * user) for user in range(9)]
    golds = [{"id": person["id"], "output": "sci-fi"} for person in people]
    source = write_lamp(tmp_path / "lamp", people, golds)
    uneven = (f"users.source={source}", "local.batch_size=2")
    simulate(tiny_config(*PLAIN, *uneven), "plain", tmp_path)
    simulate(tiny_config(*SECURE, *uneven), "secure", tmp_path)
    rows = pq.read_table(tmp_path / "secure" / "clients.parquet").to_pylist()
    assert len({row["examples"] for row in rows if row["phase"] == "train"}) > 1
    for name, value in shared(tmp_path / "plain").items():
        assert torch.allclose(shared(tmp_path / "secure")[name], value, atol=5e-6), name


def test_local_noise_and_masks_go_together(tmp_path: Path) -> None:
    noise = ("privacy.kind=local", "privacy.noise_multiplier=0.01", "privacy.clip=1")
    simulate(tiny_config(*PLAIN, *LORA, *noise), "plain", tmp_path)
    simulate(tiny_config(*SECURE, *LORA, *noise), "secure", tmp_path)
    for name, value in shared(tmp_path / "plain").items():
        assert torch.allclose(shared(tmp_path / "secure")[name], value, atol=5e-6), name


def test_keys_are_drawn_anew_and_the_result_has_the_same_bits(tmp_path: Path) -> None:
    for name in ("one", "again"):
        simulate(tiny_config(*SECURE), name, tmp_path)
    assert (tmp_path / "one" / "shared.safetensors").read_bytes() == (
        tmp_path / "again" / "shared.safetensors"
    ).read_bytes()
    assert not (tmp_path / "one" / ".secure").exists()


@pytest.mark.parametrize("method", ["flora", "fedex-lora", "chameleon", "p2p"])
def test_methods_that_need_clients_apart_are_refused_by_name(method: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"secure.aggregation: {method} needs each client's own tensors"):
        simulate(tiny_config(*SECURE, f"method={method}"), "run", tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["secure.threshold=7"], "expected more than half of the 6 users of a round, and not more than cohort=6"),
        (["secure.threshold=3"], "expected more than half of the 6 users of a round"),
        (["robust.rule=krum"], "robust.rule: with secure.aggregation the server sees no single update"),
        (["wire.up=int8"], "wire.up: with secure.aggregation masked numbers are written with secure.bytes"),
        (["privacy.kind=central", "privacy.noise_multiplier=1"], "the server cannot clip what it does not see"),
        (["cohort=2", "faults.min_replies=1"], "cohort=2: secure.aggregation needs at least 3 users"),
        (
            ["devices.preset=silos", "devices.over_selection=1"],
            "devices.over_selection=1: 6 of 12 updates are taken, and secure.threshold needs 8",
        ),
        (["secure.aggregation=false", "secure.bytes=2"], "bytes needs aggregation=true"),
    ],
)
def test_bad_settings_are_refused_before_a_run(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        simulate(tiny_config(*SECURE, *words), "run", tmp_path)
    assert not (tmp_path / "run").exists()
