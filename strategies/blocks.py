"""Where the decoder blocks of a model are, found by structure."""

from typing import Any

from torch import nn


def find_blocks(model: Any) -> nn.ModuleList:
    """Return the decoder blocks of a causal language model: the outermost list of as many modules as it has blocks.

    Raises:
        ValueError: There is no such list.
    """
    config = getattr(model, "config", None)
    count = getattr(config.get_text_config(), "num_hidden_layers", None) if config else None
    # In a model of several modalities, the text decoder only; some families call their output layer `decoder`.
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    lists = [
        (name.count("."), module)
        for name, module in (model if isinstance(decoder, nn.Linear) else decoder).named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and count in (None, len(module))
    ]
    if not lists:
        raise ValueError(f"{type(model).__name__}: no decoder blocks found (a list of {count or 'some'} modules)")
    return min(lists, key=lambda found: found[0])[1]


def name_of_blocks(model: nn.Module) -> str:
    """Return the decoder blocks' path in a model, for `get_submodule`; raises like `find_blocks`."""
    blocks = find_blocks(model)
    return next(str(name) for name, module in model.named_modules() if module is blocks)
