"""Checkpoints that do not fit are refused before a run, by what is wrong with them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.errors import InputError
from fl_clients.backbone.builtin import fetch
from fl_clients.backbone.load import load, read_shape
from simulations.experiments.plan import plan
from simulations.experiments.reuse import find
from simulations.run.served import load_served_model
from simulations.run.simulate import simulate
from tests.conftest import TINY, tiny_config

Change = Callable[[Path], None]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"


@pytest.fixture
def checkpoint(cache: Path, tmp_path: Path) -> Path:
    shutil.copytree(fetch("tiny"), tmp_path / "model")
    return tmp_path / "model"


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    def rewrite(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})

    return rewrite


def config(**values: object) -> Change:
    def rewrite(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return rewrite


def write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text) and None


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-500])


def lose_a_shard(folder: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    files = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(sorted(whole))}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    first = {name: value for name, value in whole.items() if files[name].startswith("model-00001")}
    save_file(first, folder / "model-00001-of-00002.safetensors", {"format": "pt"})
    (folder / "model.safetensors").unlink()


def only_gguf(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.gguf")
    (folder / "config.json").unlink()


FIRST = "model.layers.0.mlp.gate_proj.weight"
BAD: dict[str, tuple[Change, str]] = {
    "a prefix": (
        tensors(lambda found: {f"base_model.model.{name}": value for name, value in found.items()}),
        r"and \d+ more are missing; base_model\.model\.model\.\S+, .* are unexpected",
    ),
    "a missing tensor": (tensors(lambda found: {n: v for n, v in found.items() if n != FIRST}), f"{FIRST} are missing"),
    "another tensor": (
        tensors(lambda found: found | {"q.lora_A.weight": torch.zeros(1)}),
        "q.lora_A.weight are unexpected",
    ),
    "another shape": (tensors(lambda found: found | {FIRST: torch.zeros(3, 3)}), f"{FIRST} do not fit"),
    "an LFS pointer": (write("model.safetensors", POINTER), "model.safetensors is a Git LFS pointer"),
    "a pointer for a tokenizer": (write("tokenizer.json", POINTER), "cannot be loaded"),
    "a truncated file": (cut, "incomplete metadata, file not fully covered"),
    "a missing shard": (lose_a_shard, "model-00002-of-00002.safetensors"),
    "a link to nothing": (lambda folder: (folder / "other.safetensors").symlink_to("gone"), "gone|other.safetensors"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "it has no weights"),
    "quantised": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "requires optimum"),
    "integers": (tensors(lambda found: found | {FIRST: (100 * found[FIRST]).to(torch.int8)}), f"{FIRST} is int8"),
    "not a number": (
        tensors(lambda found: found | {FIRST: found[FIRST] * torch.nan}),
        f"{FIRST} has values that are not",
    ),
    "infinite": (tensors(lambda found: found | {FIRST: found[FIRST] + torch.inf}), f"{FIRST} has values that are not"),
    "a GGUF file": (only_gguf, "its GGUF file must be converted first"),
    "an adapter": (write("adapter_config.json", "{}"), "it holds a peft adapter"),
    "a small embedding": (config(vocab_size=200), r"token 256, but the model has embeddings for 200 tokens only"),
    "no JSON": (write("config.json", "{"), "cannot be loaded"),
    "an unknown family": (config(model_type="never-heard-of"), "never-heard-of"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_checkpoint_that_does_not_fit_is_refused_before_a_run(case: str, checkpoint: Path, tmp_path: Path) -> None:
    change, message = BAD[case]
    change(checkpoint)
    with pytest.raises(InputError, match=message) as caught:
        simulate(tiny_config(f"backbone={checkpoint}"), "run", tmp_path / "results")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_texts_longer_than_the_models_positions_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    config(max_position_embeddings=128)(checkpoint)
    with pytest.raises(InputError, match=r"local\.max_tokens=256: the backbone .*model has 128 positions only"):
        simulate(tiny_config(f"backbone={checkpoint}"), "run", tmp_path / "results")


def test_weights_in_pytorchs_own_format_are_read(checkpoint: Path) -> None:
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    expected = load(str(checkpoint), "fp32").model.state_dict()
    (checkpoint / "model.safetensors").unlink()
    assert read_shape(str(checkpoint)).blocks == 4
    found = load(str(checkpoint), "fp32").model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_a_checkpoint_that_changes_is_checked_again(checkpoint: Path) -> None:
    assert read_shape(str(checkpoint)).hidden == 16
    cut(checkpoint)
    with pytest.raises(InputError, match="incomplete metadata"):
        read_shape(str(checkpoint))


def test_a_backbone_with_other_weights_than_the_runs_is_refused_by_everything_that_uses_it(
    checkpoint: Path, tmp_path: Path
) -> None:
    words = [f"backbone={checkpoint}", "rounds=1"]
    simulate(tiny_config(*words), "run", tmp_path)
    tensors(lambda found: {name: 1.5 * value for name, value in found.items()})(checkpoint)
    refused = pytest.raises(InputError, match=r"model' has other weights than when the run was made")
    with refused:
        load_served_model(tmp_path / "run", None)
    with refused:
        simulate(tiny_config(*words, f"start_from={tmp_path / 'run'}"), "later", tmp_path)
    planned = plan(["perfit"], None, [*TINY, *words], [0])[0]
    assert find(planned, tmp_path / "comparison") is None


def test_a_backbone_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"backbone: '.*gone' cannot be loaded: there is no such folder"):
        load(str(tmp_path / "gone"), "fp32")
