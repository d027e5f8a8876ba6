"""Exported models give the same logits in plain transformers, peft and PyTorch as in the simulation."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from typer.testing import CliRunner

from configs.errors import InputError
from fl_clients.backbone.load import find
from simulations.cli.main import app
from simulations.exports.chat import Chat
from simulations.exports.export import export
from simulations.run.served import load_served_model
from tests.simulations.exports.exported import (
    PROMPT,
    assert_same_and_not_bare,
    first_target,
    logits_of,
    plain,
    served_logits,
    user_at,
)

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "method", ["lora-c", "lora-p", "oppu", "fdlora", "ffa-lora", "fedsa-lora", "fed-sb", "flora", "fedex-lora"]
)
def test_lora_loads_in_plain_peft_with_the_same_logits(run: Callable[..., Path], method: str, tmp_path: Path) -> None:
    folder = run(method, *(["settings.rank=8"] if method == "fed-sb" else []))
    user = first_target(folder)
    out = export(folder, user, "peft", tmp_path / "peft")
    assert_same_and_not_bare(served_logits(folder, user), logits_of(PeftModel.from_pretrained(plain(), str(out))))


def test_the_collective_part_differs_from_the_users_model(run: Callable[..., Path], tmp_path: Path) -> None:
    folder = run("oppu")
    out = export(folder, None, "peft", tmp_path / "peft")
    collective = logits_of(PeftModel.from_pretrained(plain(), str(out)))
    assert_same_and_not_bare(served_logits(folder, None), collective)
    assert (served_logits(folder, first_target(folder)) - collective).abs().max() > 1e-3


@pytest.mark.parametrize("words", [(), ("positions=all",), ("positions=l3",), ("positions=all-f1",)])
def test_shifts_load_in_plain_pytorch_with_the_shipped_loader(
    run: Callable[..., Path], words: tuple[str, ...], tmp_path: Path
) -> None:
    folder = run("perfit", *words)
    user = first_target(folder)
    out = export(folder, user, "safetensors", tmp_path / "plain")
    spec = importlib.util.spec_from_file_location("perfit_loader", out / "perfit_loader.py")
    assert spec is not None
    assert spec.loader is not None
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    model = plain()
    bare = logits_of(model)
    undo = loader.attach(model, str(out / "shift.safetensors"))
    assert_same_and_not_bare(served_logits(folder, user), logits_of(model))
    undo()
    assert torch.equal(logits_of(model), bare)


def test_a_lora_with_a_shift_on_top_is_written_as_both(run: Callable[..., Path], tmp_path: Path) -> None:
    folder = run("lora-reft", "settings.rank=2", "settings.alpha=2")
    user = first_target(folder)
    out = export(folder, user, "safetensors", tmp_path / "both")
    from simulations.exports.perfit_loader import attach

    model = plain()
    attach(model, str(out / "shift.safetensors"))
    factors = load_file(out / "lora.safetensors")
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for module in {name.rpartition(".")[0] for name in factors}:
            weights[f"{module}.weight"] += factors[f"{module}.B"] @ factors[f"{module}.A"]
    assert_same_and_not_bare(served_logits(folder, user), logits_of(model))
    with pytest.raises(InputError, match="lora-reft: the format peft is for LoRA adapters; use safetensors"):
        export(folder, user, "peft", tmp_path / "peft")


def test_generated_tokens_are_not_shifted_by_the_loader(run: Callable[..., Path], tmp_path: Path) -> None:
    folder = run("perfit", "decoding=paper")
    user = first_target(folder)
    out = export(folder, user, "safetensors", tmp_path / "plain")
    from simulations.exports.perfit_loader import attach

    model = plain()
    attach(model, str(out / "shift.safetensors"))
    chat = Chat(load_served_model(folder, user))
    prompt, _ = chat._encoder.prompt("A heist goes wrong.", 100)
    tokens = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :]
    text = chat._served.backbone.tokenizer.decode(tokens).partition("<eos>")[0].partition("\n")[0].strip()
    assert chat.answer("A heist goes wrong.")["personalised"] == text


def test_lora_in_safetensors_is_the_difference_of_the_weights(run: Callable[..., Path], tmp_path: Path) -> None:
    folder = run("fdlora")
    user = first_target(folder)
    factors = load_file(export(folder, user, "safetensors", tmp_path / "plain") / "lora.safetensors")
    model = plain()
    for name in factors:
        if name.endswith(".A"):
            module = name.removesuffix(".A")
            model.get_submodule(module).weight.data += factors[f"{module}.B"] @ factors[name]
    assert_same_and_not_bare(served_logits(folder, user), logits_of(model))


@pytest.mark.parametrize("method", ["perfit", "reft-c", "fedreft"])
def test_the_pyreft_layout_computes_the_same_function(run: Callable[..., Path], method: str, tmp_path: Path) -> None:
    folder = run(method, "positions=all")
    user = first_target(folder)
    out = export(folder, user, "pyreft", tmp_path / "pyreft")
    config = json.loads((out / "config.json").read_text())
    model = plain()
    for key, (site, component, *_) in zip(config["sorted_keys"], config["representations"], strict=True):
        assert component == "block_output"
        state = torch.load(out / f"intkey_{key}.bin", weights_only=True)
        torch.testing.assert_close(state["rotate_layer"].T @ state["rotate_layer"], torch.eye(len(state["bias"])))

        # LoReFT(h) = h + (Wh + b − Rh)R as pyreft writes it, with R = rotate_layer ∈ ℝ^{d×r}.
        def intervene(_block: Any, _inputs: Any, output: Any, state: dict[str, torch.Tensor] = state) -> Any:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            inside = hidden @ state["weight"].T + state["bias"] - hidden @ state["rotate_layer"]
            return hidden + inside @ state["rotate_layer"].T

        model.model.layers[site].register_forward_hook(intervene)
    assert_same_and_not_bare(served_logits(folder, user), logits_of(model))


@pytest.mark.skipif("FEDPERFIT_PYREFT" not in os.environ, reason="FEDPERFIT_PYREFT names no Python with pyreft")
def test_pyreft_itself_loads_the_layout(run: Callable[..., Path], tmp_path: Path) -> None:
    folder = run("perfit", "positions=all")
    user = first_target(folder)
    out = export(folder, user, "pyreft", tmp_path / "pyreft")
    script = f"""
import json, torch, pyreft
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(find("tiny"))!r}, attn_implementation="eager").eval()
reft = pyreft.ReftModel.load({str(out)!r}, model)
for key, intervention in reft.interventions.items():
    intervention.learned_source.float()
    intervention.load_state_dict(torch.load({str(out)!r} + f"/intkey_{{key}}.bin"))
prompt = torch.tensor({PROMPT.tolist()})
places = [[list(range(prompt.shape[1]))]] * len(reft.interventions)
with torch.no_grad():
    _, output = reft({{"input_ids": prompt}}, unit_locations={{"sources->base": (None, places)}})
print(json.dumps(output.logits.tolist()))
"""
    done = subprocess.run([os.environ["FEDPERFIT_PYREFT"], "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_and_not_bare(served_logits(folder, user), torch.tensor(json.loads(done.stdout.splitlines()[-1])))


def test_the_card_describes_the_models_origin(run: Callable[..., Path], tmp_path: Path) -> None:
    folder = run("perfit")
    words = ["export", folder.name, "--results", str(folder.parent), "--format", "safetensors"]
    user = first_target(folder)
    done = CliRunner().invoke(app, [*words, "--user", user, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert "README.md, perfit_loader.py, shift.safetensors" in done.output.replace("\n", "")
    card = (tmp_path / "out" / "README.md").read_text()
    for words_of_it in (
        "perfit",
        "6 collective users",
        "synthetic users",
        "| licence |",
        "one person's texts",
        "Movie: {source}",
    ):
        assert words_of_it in card
    CliRunner().invoke(app, [*words, "--out", str(tmp_path / "all")], catch_exceptions=False)
    assert "one person's texts" not in (tmp_path / "all" / "README.md").read_text()


def test_an_export_that_is_not_possible_is_refused(run: Callable[..., Path], tmp_path: Path) -> None:
    perfit, lora_p = run("perfit"), run("lora-p")
    for folder, user, chosen, message in (
        (perfit, None, "onnx", "format=onnx: expected one of peft, pyreft, safetensors"),
        (perfit, None, "peft", "the format peft is for LoRA adapters; use pyreft or safetensors"),
        (lora_p, first_target(lora_p), "pyreft", "the format pyreft is for shifts"),
        (lora_p, None, "peft", "lora-p has no collective part; expected a user"),
        (perfit, "nobody", "safetensors", "user=nobody: no target user"),
        (perfit, user_at(perfit, 0), "safetensors", "only target users are personalised"),
    ):
        with pytest.raises(InputError, match=message):
            export(folder, user, chosen, tmp_path / "none")
        assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="use pyreft"):
        export(perfit, None, "peft", tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        export(perfit, None, "safetensors", tmp_path / "full")


def test_a_user_whose_tensors_are_missing_does_not_get_the_collective_part(
    run: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(run("perfit"), folder)
    (folder / "private" / "6.safetensors").unlink()
    with pytest.raises(InputError, match=r"private/6.safetensors: missing"):
        export(folder, first_target(folder), "safetensors", tmp_path / "none")


@pytest.mark.parametrize(
    ("method", "form"), [("perfit", "safetensors"), ("lora-c", "peft"), ("lora-reft", "safetensors")]
)
def test_the_cards_code_runs(run: Callable[..., Path], method: str, form: str, tmp_path: Path) -> None:
    out = export(run(method), None, form, tmp_path / "out")
    card = (out / "README.md").read_text()
    assert "(`fedperfit backbone fetch tiny` prints it)" in card
    load, ask = (part.split("```")[0] for part in card.split("```python\n")[1:])
    done = subprocess.run([sys.executable, "-c", load + ask], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_real_federations_private_tensors_cannot_be_exported(run: Callable[..., Path], tmp_path: Path) -> None:
    shutil.copytree(run("perfit"), tmp_path / "run")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    content["users"]["source"] = "devices"
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="private tensors are on their devices"):
        export(tmp_path / "run", first_target(tmp_path / "run"), "safetensors", tmp_path / "one")
    card = (export(tmp_path / "run", None, "safetensors", tmp_path / "all") / "README.md").read_text()
    assert "users of a real federation" in card
    (tmp_path / "run" / "shared.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"shared\.safetensors: not readable"):
        export(tmp_path / "run", None, "safetensors", tmp_path / "none")
