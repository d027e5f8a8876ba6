"""Attaches an exported edit of hidden states to a Hugging Face decoder; needs torch and safetensors, not fedperfit.

    model = AutoModelForCausalLM.from_pretrained(...)
    undo = attach(model, "edit.safetensors")

Every prompt and answer is then steered; pass one prompt at a time, without padding. `undo()` restores the bare model.
"""

from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open


def attach(model: torch.nn.Module, path: str) -> Callable[[], None]:
    """Apply the edits in a file to a model; return a function that removes them.

    A tensor is named after the module that it edits and what it does there: `add` is added to the output from the
    prompt's last token on; `scale` and `bias` change the input; `double` and `remove` are directions of the output.
    """
    with safe_open(path, "pt") as file:
        strength = float((file.metadata() or {}).get("strength", "1"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    by_module: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        module, _, what = name.rpartition(".")
        by_module.setdefault(module, {})[what] = value

    def before(edits: dict[str, torch.Tensor]) -> Callable[..., Any]:
        def act(_module: Any, args: Any) -> Any:
            z = args[0]
            scale, bias = edits["scale"].to(z.device), edits["bias"].to(z.device)
            return ((z.float() * scale + bias).to(z.dtype), *args[1:])

        return act

    def after(edits: dict[str, torch.Tensor]) -> Callable[..., Any]:
        def act(_module: Any, _args: Any, output: Any) -> Any:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            x = hidden.float()
            if "add" in edits:
                # While an answer is generated, one token comes at a time.
                last = torch.arange(x.shape[1], device=x.device) == x.shape[1] - 1
                x = torch.where(last[None, :, None], x + edits["add"].to(x.device), x)
            for what, sign in (("double", 1), ("remove", -1)):
                if what in edits:
                    direction = edits[what].to(x.device)
                    x = x + sign * strength * (x @ direction)[..., None] * direction
            x = x.to(hidden.dtype)
            return x if isinstance(output, torch.Tensor) else (x, *output[1:])

        return act

    hooks = []
    for module, edits in by_module.items():
        place = model.get_submodule(module)
        inside = "scale" in edits
        hook = place.register_forward_pre_hook(before(edits)) if inside else place.register_forward_hook(after(edits))
        hooks.append(hook)

    def undo() -> None:
        for hook in hooks:
            hook.remove()

    return undo
