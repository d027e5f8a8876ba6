"""Attaches an exported shift to a Hugging Face decoder; needs torch and safetensors, but not fedperfit.

    model = AutoModelForCausalLM.from_pretrained(...)
    undo = attach(model, "shift.safetensors")

Every prompt is then shifted; pass one prompt at a time, without padding. `undo()` restores the bare model.
"""

import json
from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open


def attach(model: torch.nn.Module, path: str) -> Callable[[], None]:
    """Apply the shift in a file to a model's prompts; return a function that removes it."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    stages, first, last = json.loads(metadata["stages"]), int(metadata["first"]), int(metadata["last"])
    spared = int(metadata["spared"])

    def shift(site: int) -> Callable[..., Any]:
        def act(_block: Any, _inputs: Any, output: Any) -> Any:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            length = hidden.shape[1]
            if length == 1:  # a token that is being generated; prompts are longer
                return output
            chosen = [i >= spared and (i < first or i >= length - last) for i in range(length)]
            touched = torch.tensor(chosen, device=hidden.device)
            x = hidden
            for stage in stages:  # φ(x) = x + Rᵀ(Wx + b − Rx), the collective one first
                if f"{stage}.{site}.R" not in tensors:  # it has other sites
                    continue
                R, W, b = (tensors[f"{stage}.{site}.{letter}"].to(hidden.device) for letter in "RWb")
                x = x + ((x.float() @ (W - R).T + b) @ R).to(x.dtype)
            x = torch.where(touched[None, :, None], x, hidden)
            return x if isinstance(output, torch.Tensor) else (x, *output[1:])

        return act

    hooks = [
        model.get_submodule(f"{metadata['blocks']}.{site}").register_forward_hook(shift(site))
        for site in json.loads(metadata["sites"])
    ]

    def undo() -> None:
        for hook in hooks:
            hook.remove()

    return undo
