"""Edits and profiles of steering methods, exported, do what they did in the run."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from configs.errors import InputError
from fl_clients.backbone.load import find
from fl_clients.private_store import private_path
from simulations.exports.export import export
from simulations.run.served import load_served_model
from strategies import chameleon
from tests.simulations.exports.exported import PROMPT, STEERING, first_target

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("method", STEERING)
def test_an_exported_edit_gives_the_runs_logits_without_fedperfit(
    method: str, run: Callable[..., Path], tmp_path: Path, answers_differ: None
) -> None:
    folder = run(method, *STEERING[method])
    user = first_target(folder)
    out = export(folder, user, "safetensors", tmp_path / "out")
    served = load_served_model(folder, user)
    bare = AutoModelForCausalLM.from_pretrained(find("tiny")).requires_grad_(False)
    before = bare(input_ids=PROMPT).logits
    spec = importlib.util.spec_from_file_location("steering_loader", out / "steering_loader.py")
    assert spec is not None
    assert spec.loader is not None
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    undo = loader.attach(bare, str(out / "edit.safetensors"))
    theirs = bare(input_ids=PROMPT).logits
    with served.adapter.active(torch.ones_like(PROMPT, dtype=torch.bool)), torch.no_grad():
        ours = served.backbone.model(input_ids=PROMPT).logits
    assert torch.allclose(theirs, ours, atol=1e-4)
    assert (theirs[0, -1] - before[0, -1]).abs().max() > 1e-3
    undo()
    assert torch.equal(bare(input_ids=PROMPT).logits, before)
    assert 'attach(model, "edit.safetensors")' in (out / "README.md").read_text()


def test_a_profile_is_exported_as_text_and_a_method_of_prompts_is_named(
    run: Callable[..., Path], tmp_path: Path, answers_differ: None
) -> None:
    folder = run("pag")
    export(folder, first_target(folder), "safetensors", tmp_path / "pag")
    assert (tmp_path / "pag" / "profile.txt").read_text().startswith("The tags that this person uses most often are")
    profile = private_path(folder / "private", 6)
    kept = profile.read_bytes()
    profile.unlink()
    with pytest.raises(InputError, match=r"missing, so the model of user .* is unknown"):
        load_served_model(folder, first_target(folder))
    profile.write_bytes(kept)
    folder = run("rag")
    with pytest.raises(InputError, match=r"rag changes prompts, not the model; ask it with `fedperfit chat`"):
        export(folder, first_target(folder), "safetensors", tmp_path / "rag")
    assert not (tmp_path / "rag").exists()


def test_an_edit_that_changes_nothing_is_not_exported(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chameleon, "differing", lambda _pairs: [])
    folder = run("chameleon", "settings.items=3")
    with pytest.raises(InputError, match="chameleon changes nothing for this user: no pair of its answers differs"):
        export(folder, first_target(folder), "safetensors", tmp_path / "empty")
