"""Finds out before a run whether a backbone's files can be loaded and fit together."""

import contextlib
import hashlib
import io
import json
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from fl_clients.backbone.source import pretrained

_BESIDE = re.compile(
    r"(^|[._])(vision|visual|audio|image|mm|multi_modal|mtp)|rotary_emb\.inv_freq$|attn\.(masked_)?bias$"
)
"""Tensors of a checkpoint that a text decoder does not need: other modalities, other heads, old constants."""
_POINTER = b"version https://git-lfs"
_SHOWN = 3
_SAMPLE, _SAMPLES = 1 << 16, 256
"""Bytes of a sample, and samples of a large file: enough for any training or conversion to show."""


def check_weights(where: Path | str) -> None:
    """Refuse a checkpoint whose tensors are not the model's; nothing is loaded into memory.

    Args:
        where: The argument of `from_pretrained`.

    Raises:
        ValueError: A file is missing, damaged or a Git LFS pointer; tensors are missing, unexpected or of another
            shape; or a library that the checkpoint needs is missing.
    """
    try:
        with _silent():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                **pretrained(where),
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below
            )
    except Exception as error:  # safetensors' and the quantisers' errors have no common class
        pickled = sorted(path.name for path in where.glob("*.bin")) if isinstance(where, Path) else []
        files = f" ({', '.join(pickled[:_SHOWN])})" if pickled else ""
        raise ValueError(f"its weights{files} cannot be loaded: {first_line(error)}") from None
    info: dict[str, Any] = loaded[1]
    unexpected = [name for name in info["unexpected_keys"] if not _BESIDE.search(name)]
    problems = (
        ("are missing", info["missing_keys"]),
        ("are unexpected", unexpected),
        ("do not fit", info["mismatched_keys"]),
    )
    faults = "; ".join(f"{_listed(names)} {what}" for what, names in problems if names)
    if faults:
        raise ValueError(f"its weights are not those of the model that config.json describes: {faults}")
    if isinstance(where, Path) and getattr(loaded[0].config, "quantization_config", None) is None:
        _check_values(where)


def _check_values(folder: Path) -> None:
    """Refuse weights that are not finite floating-point numbers: they would be trained on without a word."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                if not tensor.is_floating_point():
                    if name.endswith(("weight", ".bias")) and not _BESIDE.search(name):
                        kind = str(tensor.dtype).removeprefix("torch.")
                        raise ValueError(f"{path.name}: {name} is {kind}, and config.json declares no quantisation")
                elif not math.isfinite(
                    float(tensor.to(torch.float64 if tensor.dtype.itemsize > 2 else torch.float32).sum())
                ):
                    raise ValueError(f"{path.name}: {name} has values that are not finite")


def digest_of(where: Path | str, config: PreTrainedConfig) -> str:
    """Return what tells this checkpoint from another: a hash over samples of its files, or a hub's commit.

    Args:
        where: The argument of `from_pretrained`.
        config: As loaded from there.
    """
    if not isinstance(where, Path):
        return f"commit {config._commit_hash}"
    total = hashlib.sha256()
    settings: dict[str, Any] = json.loads((where / "config.json").read_text(encoding="utf-8"))
    settings.pop("transformers_version", None)
    total.update(json.dumps(settings, sort_keys=True).encode())
    for path in sorted([*where.glob("*.safetensors"), *where.glob("*.bin")]):
        size = path.stat().st_size
        total.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(_SAMPLE, size // _SAMPLES)):
                file.seek(start)
                total.update(file.read(_SAMPLE))
    return total.hexdigest()


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
    """Return an error's first line, and the next one if the first announces it, or its type if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1]) if lines else type(error).__name__


def check_files(folder: Path) -> None:
    """Refuse a folder whose files cannot be a model's weights.

    Raises:
        ValueError: It has none, or one is damaged or a Git LFS pointer.
    """
    if (folder / "adapter_config.json").is_file():
        raise ValueError("it holds a peft adapter; merge it into its model and save that")
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    if not weights:
        gguf = "; its GGUF file must be converted first" if any(folder.glob("*.gguf")) else ""
        raise ValueError(f"it has no weights (*.safetensors or pytorch_model*.bin){gguf}")
    for path in (*weights, *folder.glob("*.json"), *folder.glob("*.model")):
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise ValueError(f"{path.name} is a Git LFS pointer; fetch the file with `git lfs pull`")
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, "pt"):
                    continue
            except Exception as error:
                raise ValueError(f"{path.name} is damaged: {first_line(error)}") from None


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
