"""Where the decoder blocks of a model are, found by structure."""

from typing import Any

from torch import nn

_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_ATTENTION_OUTPUT = ("o_proj", "out_proj", "c_proj", "dense", "wo")


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
    return min(lists, key=lambda pair: pair[0])[1]


def has_mlp(block: nn.Module) -> bool:
    """Tell whether `find_mlp` finds something."""
    return any(name in _MLP for name, _ in block.named_children())


def find_mlp(block: nn.Module) -> nn.Module:
    """Return the feed-forward network of a decoder block, whose output joins the residual stream.

    Raises:
        ValueError: The block has no child that is called so in any known family.
    """
    for name, child in block.named_children():
        if name in _MLP:
            return child
    raise ValueError(f"{type(block).__name__}: no MLP found (a child called {', '.join(_MLP)})")


def find_attention_output(block: nn.Module) -> nn.Module:
    """Return the projection of a decoder block's concatenated heads into the residual stream.

    Raises:
        ValueError: The block has none that is called so in any known family.
    """
    modules: list[tuple[str, nn.Module]] = list(block.named_modules())
    for name, module in modules:
        *path, last = name.split(".")
        # GPT-2's MLP has a c_proj too.
        if last in _ATTENTION_OUTPUT and not set(path) & set(_MLP):
            return module
    raise ValueError(f"{type(block).__name__}: no output projection found (called {', '.join(_ATTENTION_OUTPUT)})")


def name_of_blocks(model: nn.Module) -> str:
    """Return the decoder blocks' path in a model, for `get_submodule`; raises like `find_blocks`."""
    blocks = find_blocks(model)
    return next(str(name) for name, module in model.named_modules() if module is blocks)
