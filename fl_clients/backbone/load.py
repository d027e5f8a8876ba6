"""The frozen language model: how it is fetched and loaded."""

import contextlib
import hashlib
import inspect
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import httpx
import huggingface_hub
import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Cache,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from configs.errors import InputError
from configs.paths import expand, make_cache
from fl_clients.backbone.builtin import BUILT_IN, fetch
from fl_clients.backbone.checks import check_files, check_tokenizer, check_weights, digest_of, first_line
from fl_clients.backbone.self_check import check_arithmetic
from fl_clients.backbone.source import pretrained
from strategies.blocks import find_blocks, has_mlp, name_of_blocks
from strategies.method import BackboneShape

transformers_logging.disable_progress_bar()  # it would draw on standard error whenever weights are read

Precision = Literal["fp32", "bf16"]

_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
_MOST_IN_FP32 = 3_000_000_000
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone: frozen, in eval mode."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    shape: BackboneShape
    device: torch.device

    def run(self, cache: Cache | None, **inputs: Any) -> Any:
        """Run the model with a cache of keys and values, which some versions of transformers name otherwise."""
        return self.model(**inputs, **{self._cache_argument: cache})

    @cached_property
    def _cache_argument(self) -> str:
        return "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"


def find(name: str) -> Path | str:
    """Return the argument of `from_pretrained` for a backbone's name: a folder, or the hub id unchanged.

    Raises:
        InputError: A built-in backbone cannot be fetched.
    """
    if name in BUILT_IN:
        return fetch(name)
    folder = expand(name)
    return folder.resolve() if folder.is_dir() else name


def read_shape(name: str, usable: bool = True) -> BackboneShape:
    """Read d and the numbers of blocks and parameters from a backbone's config, without loading weights.

    Args:
        name: As in the config.
        usable: Also reject a backbone that cannot run: one whose tokenizer or weights are missing, damaged or another
            model's.

    Raises:
        InputError: The backbone cannot be reached, is incomplete, or is not a decoder with blocks to intervene on.
    """
    where = _reach(name)
    return _read_shape(name, where, usable, _state_of(where))


def backbone_digest(name: str) -> str:
    """Return what tells a backbone's weights from others that may later have the same name.

    Raises:
        InputError: The backbone cannot be reached.
    """
    where = _reach(name)
    return _digest(name, where, _state_of(where))


@lru_cache(maxsize=8)
def _digest(name: str, where: Path | str, _state: tuple[tuple[str, int, int], ...]) -> str:
    try:
        return digest_of(where, AutoConfig.from_pretrained(**pretrained(where)))
    except Exception as error:
        raise InputError(f"backbone: '{name}' cannot be loaded: {first_line(error)}") from None


def check_backbone(name: str, digest: str | None) -> None:
    """Refuse a backbone that has changed since a run was made with it.

    Args:
        name: As in the config.
        digest: As recorded then; None in older records.

    Raises:
        InputError: It has changed, or cannot be loaded.
    """
    read_shape(name)
    if digest and digest != backbone_digest(name):
        raise InputError(f"backbone: '{name}' has other weights than when the run was made")


def _state_of(folder: Path | str) -> tuple[tuple[str, int, int], ...]:
    """Return names, sizes and times of a folder's files; a hub id has none."""
    if not isinstance(folder, Path):
        return ()
    files = ((path.name, path.stat()) for path in sorted(folder.iterdir()) if path.exists())
    return tuple((name, about.st_size, about.st_mtime_ns) for name, about in files)


@lru_cache(maxsize=8)
def _read_shape(name: str, where: Path | str, usable: bool, _state: tuple[tuple[str, int, int], ...]) -> BackboneShape:
    """Read the shape again only if a file has changed: a comparison checks hundreds of runs of one backbone."""
    try:
        if usable and isinstance(where, Path):
            check_files(where)
        config = AutoConfig.from_pretrained(**pretrained(where))
        model = on_meta(config)
        find_blocks(model)
        if other := set(getattr(config.get_text_config(), "layer_types", None) or ()) - _ATTENTION:
            raise ValueError(f"its blocks are not all attention ({', '.join(sorted(other))})")
        if usable:
            check_tokenizer(AutoTokenizer.from_pretrained(**pretrained(where)), model)
            check_weights(where)
            _check_once(where, config)
        return shape_of(model)
    except Exception as error:  # files of other tools fail in every way
        raise InputError(f"backbone: '{name}' cannot be loaded: {first_line(error)}") from None


def _check_once(where: Path | str, config: PreTrainedConfig) -> None:
    """Check what the model computes, unless these weights have already passed with these versions."""
    versions = f"{digest_of(where, config)} {torch.__version__} {transformers.__version__}"
    passed = make_cache("checked") / hashlib.sha256(versions.encode()).hexdigest()[:32]
    if passed.is_file():
        return
    small = on_meta(config).num_parameters() <= _MOST_IN_FP32
    model: Any = AutoModelForCausalLM.from_pretrained(**pretrained(where), dtype=torch.float32 if small else "auto")
    tokenizer = AutoTokenizer.from_pretrained(**pretrained(where))
    check_arithmetic(Backbone(model.eval(), tokenizer, shape_of(model), torch.device("cpu")))
    passed.touch()


def on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the model of a config without allocating memory for its weights."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def shape_of(model: PreTrainedModel) -> BackboneShape:
    """Return the shape of a model, as methods see it."""
    text = model.config.get_text_config()
    blocks = find_blocks(model)
    prefix = name_of_blocks(model)
    linears = {}
    for name, module in blocks.named_modules():
        if isinstance(module, nn.Linear) and _returns_product(module):
            linears[f"{prefix}.{name}"] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            linears[f"{prefix}.{name}"] = (module.nx, module.nf)
    heads = getattr(text, "num_attention_heads", 0)
    size = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
    mlps = all(map(has_mlp, blocks))
    count = model.num_parameters()
    return BackboneShape(text.hidden_size, len(blocks), count, linears, _positions(text), heads, size, mlps)


@torch.no_grad()
def _returns_product(module: nn.Linear) -> bool:
    """Tell a linear module from a mixture's router, which derives from it but returns several tensors."""
    if type(module).forward is nn.Linear.forward:
        return True
    return isinstance(module(torch.zeros_like(module.weight[:1])), torch.Tensor)


def _positions(text: PreTrainedConfig) -> int | None:
    """Return the tokens in the longest text that a model encodes the same in every batch."""
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):  # a longer text changes the angles of its whole batch
        original = rope.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", 0)
        if original:
            return int(original)
    return getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)


def read_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load only a backbone's tokenizer.

    Raises:
        InputError: It cannot be reached or read.
    """
    where = _reach(name)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**pretrained(where))
    except Exception as error:
        raise InputError(f"backbone: the tokenizer of '{name}' cannot be loaded: {first_line(error)}") from None
    return tokenizer


def _reach(name: str) -> Path | str:
    """Return the argument of `from_pretrained`, after checking that the backbone can be reached."""
    where = find(name)
    if not isinstance(where, Path):
        if name.startswith(("/", ".", "~")):
            what = "it is a file, expected a folder" if expand(name).is_file() else "there is no such folder"
            raise InputError(f"backbone: '{name}' cannot be loaded: {what}")
        _reach_hub(where)
    return where


def _reach_hub(name: str) -> None:
    """Fail within seconds, not after a minute of retries, if a hub id is neither cached nor reachable."""
    with contextlib.suppress(OSError, ValueError):
        AutoConfig.from_pretrained(**pretrained(name), local_files_only=True)
        return
    try:
        httpx.head(huggingface_hub.constants.ENDPOINT, timeout=5.0)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError) as error:  # also of a proxy that is none
        raise InputError(
            f"backbone: '{name}' is not a local folder, not built in ({', '.join(BUILT_IN)}), and the hub cannot be "
            f"reached ({error}); download it on a machine with a network connection and give the folder"
        ) from None


def resolve_precision(precision: Literal["auto", "fp32", "bf16"], gpu: bool) -> Precision:
    """Turn `auto` into bf16 if it is faster on this processor, else fp32.

    Args:
        precision: As in the config.
        gpu: Whether clients run on a GPU if the machine has one.
    """
    if precision != "auto":
        return precision
    if gpu and torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    # On CPU, bf16 is faster end to end only with AMX; with AVX512-BF16 but no AMX, whole steps measured slower.
    return "bf16" if torch.cpu._is_amx_tile_supported() else "fp32"


def load(name: str, precision: Precision, gpu: bool = False) -> Backbone:
    """Load a backbone: weights memory-mapped from safetensors, frozen, in eval mode.

    Args:
        name: As in the config.
        precision: Number format of the weights.
        gpu: Put it on the GPU if the machine has one, else on the CPU: Ray's GPUs may be logical only.

    Raises:
        InputError: The backbone is gone, or its files cannot be read.
    """
    where = _reach(name)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(**pretrained(where), dtype=_DTYPES[precision])
        tokenizer = AutoTokenizer.from_pretrained(**pretrained(where))
    except Exception as error:
        raise InputError(f"backbone: '{name}' cannot be loaded: {first_line(error)}") from None
    device = torch.device("cuda" if gpu and torch.cuda.is_available() else "cpu")
    model.to(device).eval().requires_grad_(False)
    if head := model.get_output_embeddings():
        head.register_forward_pre_hook(_copy_input)
    return Backbone(model, tokenizer, shape_of(model), device)


def _copy_input(_head: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Copy what the head gets: the last positions of a batch are a view, on which PyTorch's bf16 product is slow.

    On a CPU with AMX, 8 rows of a vocabulary of 49,152 took 1.5 s as a view and 9 ms as a copy (torch 2.13). A view of
    one row counts as contiguous, so `contiguous` would not copy it.
    """
    return (inputs[0].clone(memory_format=torch.contiguous_format), *inputs[1:])
