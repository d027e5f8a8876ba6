"""Finds out before a run whether a backbone's files can be loaded and fit together."""

import contextlib
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

_BESIDE = re.compile(
    r"(^|[._])(vision|visual|audio|image|mm|multi_modal|mtp)|rotary_emb\.inv_freq$|attn\.(masked_)?bias$"
)
"""Tensors of a checkpoint that a text decoder does not need: other modalities, other heads, old constants."""
_POINTER = b"version https://git-lfs"
_SHOWN = 3


def check_weights(where: Path | str) -> None:
    """Refuse a checkpoint whose tensors are not the model's; nothing is loaded into memory.

    Args:
        where: The argument of `from_pretrained`.

    Raises:
        ValueError: A file is missing, damaged or a Git LFS pointer; tensors are missing, unexpected or of another
            shape; or a library that the checkpoint needs is missing.
    """
    if isinstance(where, Path):
        _check_files(where)
    try:
        with _silent():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                where, device_map="meta", output_loading_info=True, trust_remote_code=False
            )
    except Exception as error:  # safetensors' and the quantisers' errors have no common class
        raise ValueError(f"its weights cannot be loaded: {first_line(error)}") from None
    info: dict[str, Any] = loaded[1]
    unexpected = [name for name in info["unexpected_keys"] if not _BESIDE.search(name)]
    problems = (
        ("are missing", info["missing_keys"]),
        ("are unexpected", unexpected),
        ("do not fit", info["mismatched_keys"]),
    )
    found = "; ".join(f"{_listed(names)} {what}" for what, names in problems if names)
    if found:
        raise ValueError(f"its weights are not those of the model that config.json describes: {found}")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for, or without an end token.

    Raises:
        ValueError: Says which.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("its tokenizer has no end token, so answers cannot end")
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ValueError(f"its tokenizer has token {largest}, but the model has embeddings for {rows} tokens only")


def first_line(error: Exception) -> str:
    """Return an error's first line, or its type if it has none."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _check_files(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ValueError("it holds a peft adapter; merge it into its model and save that")
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    if not weights:
        raise ValueError("it has no weights (*.safetensors or pytorch_model*.bin)")
    for path in (*weights, *folder.glob("*.json"), *folder.glob("*.model")):
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ValueError(f"{path.name} is a Git LFS pointer; fetch the file with `git lfs pull`")


def _listed(names: Any) -> str:
    shown = sorted(str(name[0] if isinstance(name, tuple) else name) for name in names)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep transformers' report of unfitting tensors and its progress bars off the screen."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
            yield
    finally:
        transformers_logging.set_verbosity(before)
