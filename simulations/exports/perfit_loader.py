"""Puts an exported shift on a Hugging Face decoder: needs torch and safetensors, nothing of fedperfit.

    model = AutoModelForCausalLM.from_pretrained(...)
    undo = attach(model, "shift.safetensors")

From then on every prompt is shifted, one prompt at a time, without padding; `undo()` gives the bare model back.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open


def attach(model: torch.nn.Module, path: str) -> Callable[[], None]:
    """Let the shift in a file act on a model's prompts; return what takes it off again."""
    with safe_open(path, "pt") as file:
        said = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
    stages, first, last = json.loads(said["stages"]), int(said["first"]), int(said["last"])

    def shift(site: int) -> Callable[..., Any]:
        def act(_block: Any, _inputs: Any, output: Any) -> Any:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            length = hidden.shape[1]
            if length == 1:  # a token that is being generated; prompts are longer
                return output
            touched = torch.tensor([i < first or i >= length - last for i in range(length)], device=hidden.device)
            x = hidden
            for stage in stages:  # φ(x) = x + Rᵀ(Wx + b − Rx), the collective one first
                R, W, b = (tensors[f"{stage}.{site}.{letter}"].to(hidden.device) for letter in "RWb")
                x = x + ((x.float() @ (W - R).T + b) @ R).to(x.dtype)
            x = torch.where(touched[None, :, None], x, hidden)
            return x if isinstance(output, torch.Tensor) else (x, *output[1:])

        return act

    hooks = [
        model.get_submodule(f"{said['blocks']}.{site}").register_forward_hook(shift(site))
        for site in json.loads(said["sites"])
    ]

    def undo() -> None:
        for hook in hooks:
            hook.remove()

    return undo
