"""Exports of models that steer by edits of hidden states, and of profiles that precede a prompt."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from configs.errors import InputError
from simulations.run.served import ServedModel
from strategies.blocks import find_attention_output, find_blocks, find_mlp
from strategies.method import Tensors
from strategies.prompting.notes import Notes
from strategies.steering.added_vector import AddedVector
from strategies.steering.edited_mlps import EditedMlps
from strategies.steering.heads import EditedHeads

_LOADER = Path(__file__).parent / "steering_loader.py"


def write_edits(served: ServedModel, out: Path) -> str | None:
    """Write an edit and its loader, or a profile; return code that loads it, None if the adapter is of another kind.

    Raises:
        InputError: The method changes prompts only, and has no text that belongs to all of them; or the edit is empty.
    """
    adapter = served.adapter
    if isinstance(adapter, Notes):
        if not adapter.text:
            raise InputError(f"{served.record.method} changes prompts, not the model; ask it with `fedperfit chat`")
        (out / "profile.txt").write_text(adapter.text + "\n", encoding="utf-8")
        return """\
profile = open("profile.txt", encoding="utf-8").read().strip()


def with_profile(prompt: str) -> str:
    return f"{profile}\\n\\n{prompt}"  # after the profile the run also puts items that match the question"""
    tensors = _edits(adapter, served.backbone.model)
    if tensors is None:
        return None
    if not tensors:
        raise InputError(f"{served.record.method} changes nothing for this user: no pair of its answers differs")
    strength = {"strength": str(adapter.strength)} if isinstance(adapter, EditedMlps) else None
    save_file({name: value.contiguous() for name, value in tensors.items()}, out / "edit.safetensors", strength)
    shutil.copyfile(_LOADER, out / _LOADER.name)
    return """\
from steering_loader import attach  # the file next to this one; one prompt at a time, without padding

undo = attach(model, "edit.safetensors")"""


def _edits(adapter: object, model: nn.Module) -> Tensors | None:
    """Return an adapter's edits by the name of the edited module and what is done there; None if it has none."""
    names = {module: name for name, module in model.named_modules()}
    blocks = find_blocks(model)
    if isinstance(adapter, AddedVector):
        return {f"{names[blocks[adapter.frozen_blocks - 1]]}.add": adapter.v.cpu()}
    if isinstance(adapter, EditedMlps):
        edits: Tensors = {}
        for place, block in enumerate(blocks):
            if adapter.personal[place].any() or adapter.neutral[place].any():
                name = names[find_mlp(block)]
                edits |= {f"{name}.double": adapter.personal[place], f"{name}.remove": adapter.neutral[place]}
        return {name: value.cpu().clone() for name, value in edits.items()}
    if isinstance(adapter, EditedHeads):
        edits = {}
        with torch.no_grad():
            for place, block in enumerate(blocks):
                name = names[find_attention_output(block)]
                edits |= {f"{name}.scale": 1 + adapter.A[place], f"{name}.bias": adapter.bias(place)}
        return {name: value.cpu().clone() for name, value in edits.items()}
    return None
