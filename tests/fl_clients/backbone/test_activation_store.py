"""The store of hidden states: bounded, shared, and protected against damage."""

import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from fl_clients.backbone import activation_store
from fl_clients.backbone.activation_store import ActivationStore, activation_folder, fingerprint, key_of
from fl_clients.backbone.builtin import fetch
from fl_clients.backbone.frozen_prefix import FrozenPrefix
from fl_clients.backbone.load import Backbone, load

ENTRY = {"hidden": torch.arange(1000.0).reshape(10, 100), "keys": torch.ones(2, 3, dtype=torch.bfloat16)}
SIZE = 4012


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*") if path.is_file())


def test_an_entry_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    ActivationStore(tmp_path, 10**6, print).write(key_of("a"), ENTRY)
    read = ActivationStore(tmp_path, 10**6, print).read(key_of("a"))
    assert read is not None
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in read.items()} == {
        name: (tensor.dtype, tensor.tolist()) for name, tensor in ENTRY.items()
    }
    assert ActivationStore(tmp_path, 10**6, print).read(key_of("b")) is None


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "header"])
def test_a_damaged_entry_is_detected_and_deleted(damage: str, tmp_path: Path) -> None:
    store = ActivationStore(tmp_path, 10**6, print)
    store.write(key_of("a"), ENTRY)
    (file,) = files(tmp_path)
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[-7] ^= 1
    elif damage == "header":
        content[20] ^= 0xFF
    file.write_bytes({"truncated": content[:-5], "empty": b""}.get(damage, content))
    assert store.read(key_of("a")) is None
    assert files(tmp_path) == []
    store.write(key_of("a"), ENTRY)
    assert store.read(key_of("a")) is not None


def test_the_least_recently_used_entry_is_removed_first(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path, 3 * (SIZE + 600), print)
    for age, name in enumerate("abc"):
        store.write(key_of(name), ENTRY)
        (path,) = tmp_path.rglob(f"{key_of(name)}*")
        os.utime(path, (age, age))
    assert store.read(key_of("a")) is not None  # a is used again, so b is now the oldest
    store.write(key_of("d"), ENTRY)
    assert [store.read(key_of(name)) is not None for name in "abcd"] == [True, False, True, True]
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 3 * (SIZE + 600)


def test_opening_a_store_applies_a_smaller_limit_and_removes_a_killed_writers_file(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path, 10**6, print)
    for name in "abc":
        store.write(key_of(name), ENTRY)
    killed = tmp_path / "ab" / "x.safetensors.1.tmp"
    killed.parent.mkdir(exist_ok=True)
    killed.write_bytes(b"half")
    os.utime(killed, (0, 0))
    ActivationStore(tmp_path, SIZE + 600, print)
    assert len(files(tmp_path)) == 1
    assert not killed.exists()


def test_entries_are_not_looked_through_again_within_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Path] = []
    genuine = activation_store._files_below
    monkeypatch.setattr(activation_store, "_files_below", lambda folder: looks.append(folder) or genuine(folder))
    for limit, looked in ((4_000, 1), (4_000, 1), (5_000, 1), (3_000, 2)):
        ActivationStore(tmp_path, limit, print)
        assert len(looks) == looked
    for age, looked in ((90, 3), (-90, 4)):  # a mark from the future is that of another clock
        os.utime(tmp_path / "scanned", (time.time() - age,) * 2)
        ActivationStore(tmp_path, 3_000, print)
        assert len(looks) == looked


def test_an_entry_larger_than_the_limit_is_not_stored_and_logged_once(tmp_path: Path) -> None:
    said: list[str] = []
    store = ActivationStore(tmp_path, SIZE - 1, said.append)
    for name in "abc":
        store.write(key_of(name), ENTRY)
    assert files(tmp_path) == []
    (text,) = said
    assert "more than the limit of 4,011" in text


def test_a_folder_that_is_not_writable_is_logged_once(tmp_path: Path) -> None:
    # A file in place of the folder: not even root can write to it.
    (tmp_path / "store").write_text("")
    said: list[str] = []
    store = ActivationStore(tmp_path / "store", 10**6, said.append)
    for name in "abc":
        store.write(key_of(name), ENTRY)
        assert store.read(key_of(name)) is None
    (text,) = said
    assert "the run continues without them" in text


def _write_often(folder: Path) -> None:
    store = ActivationStore(folder, 5 * SIZE, print)
    for number in range(60):
        store.write(key_of(number % 7), ENTRY)


@pytest.mark.integration
def test_concurrent_writers_leave_whole_entries(tmp_path: Path) -> None:
    processes = [multiprocessing.get_context("spawn").Process(target=_write_often, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    store = ActivationStore(tmp_path, 10**6, print)
    assert all(file.suffix == ".safetensors" for file in files(tmp_path))
    for file in files(tmp_path):
        assert store.read(file.stem) is not None


def test_a_key_depends_on_all_its_parts() -> None:
    assert key_of("x", [1, 2], [3]) != key_of("x", [1], [2, 3]) != key_of("y", [1], [2, 3])


def test_a_fingerprint_detects_a_change_of_one_bit(tiny: Backbone) -> None:
    before = fingerprint(tiny.model)
    weight = tiny.model.model.layers[0].mlp.up_proj.weight.data
    value = weight[0, 0].clone()
    weight[0, 0] = torch.nextafter(value, value + 1)
    try:
        assert fingerprint(tiny.model) != before
    finally:
        weight[0, 0] = value
    assert fingerprint(tiny.model) == before


def test_a_backbone_with_other_settings_finds_no_entries(tiny: Backbone, tmp_path: Path) -> None:
    # The same weights with other rotary tables: only the config tells them apart.
    shutil.copytree(fetch("tiny"), tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 50.0}
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    other = load(str(tmp_path / "other"), "fp32")
    assert fingerprint(other.model) == fingerprint(tiny.model)
    store = ActivationStore(tmp_path / "kept", 10**6, print)
    hidden = [
        FrozenPrefix(backbone, fingerprint(backbone.model), 2, None, store).states([5, 6, 7, 8], []).hidden
        for backbone in (tiny, other)
    ]
    assert len(files(tmp_path / "kept")) == 2
    assert not torch.equal(hidden[0], hidden[1])


def test_an_adapter_with_more_frozen_blocks_than_the_backbone_has_is_refused(tiny: Backbone, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen_blocks=9: the backbone has 4 blocks"):
        FrozenPrefix(tiny, "", 9, None, ActivationStore(tmp_path, 10**6, print))


def test_a_folder_that_others_can_read_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPERFIT_CACHE", str(tmp_path))
    (tmp_path / "activations").mkdir(mode=0o755)
    folder = activation_folder()
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700
