"""The part of the backbone's computation that never changes, done once per example.

Below the lowest touched block nothing depends on the adapter: the hidden states there follow from the tokens only, so
they are stored and passed to the blocks above. If only the last n prompt tokens are touched (`l7`), the states of the
tokens before them are those of the bare backbone in every block, so their keys and values are stored as well.

States are computed from a single example without padding, so they are bit-identical in every process and for every
batch.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from fl_clients.backbone.activation_store import ActivationStore, key_of
from fl_clients.backbone.load import Backbone
from strategies.blocks import find_blocks


@dataclass(frozen=True)
class FrozenStates:
    """The states of one example that never change."""

    hidden: torch.Tensor
    """[tokens, d], at the output of the last frozen block."""
    untouched: int
    """Number of first tokens whose states never change in any block."""
    keys: torch.Tensor | None
    """[blocks above the frozen ones, heads, untouched, head size]; None if untouched is 0."""
    values: torch.Tensor | None
    """As `keys`."""
    labels: torch.Tensor | None
    """[labels, width, d]: of all but the last token of each label, following the prompt; None if not requested."""


class FrozenPrefix:
    """The frozen blocks of one backbone, and the store of their states."""

    def __init__(
        self, backbone: Backbone, identity: str, frozen_blocks: int, suffix: int | None, store: ActivationStore
    ) -> None:
        """Bind to a backbone.

        Args:
            backbone: Frozen.
            identity: The backbone's `fingerprint`.
            frozen_blocks: Number of blocks, from the first, that the adapter does not touch; at least 1.
            suffix: Number of last prompt tokens that the adapter may touch; None means all.
            store: The store of the states.
        """
        self._suffix = suffix
        self._blocks = list(find_blocks(backbone.model))
        self._backbone = backbone
        self._as_tuple = self._blocks_return_tuples()
        self.frozen_blocks = frozen_blocks
        self._store = store
        if not 0 < frozen_blocks <= len(self._blocks):
            raise ValueError(f"frozen_blocks={frozen_blocks}: the backbone has {len(self._blocks)} blocks")
        self._identity = (identity, arithmetic(backbone), frozen_blocks)

    def states(self, prompt: list[int], answer: list[int], labels: Sequence[list[int]] = ()) -> FrozenStates:
        """Return an example's states from the store; compute and store them if they are missing.

        Args:
            prompt: In tokens.
            answer: In tokens; empty for a question.
            labels: In tokens, at least two each: continuations of the prompt whose states are also returned.
        """
        # Above the last block there are no keys and values to store.
        whole = self._suffix is None or self.frozen_blocks == len(self._blocks)
        untouched = 0 if whole else max(0, len(prompt) - (self._suffix or 0))
        key = key_of(*self._identity, untouched, prompt, answer, list(labels))
        tensors = self._store.read(key)
        if tensors is None:
            tensors = self._compute(prompt + answer, len(prompt), untouched, labels)
            self._store.write(key, tensors)
        return FrozenStates(
            tensors["hidden"], untouched, tensors.get("keys"), tensors.get("values"), tensors.get("labels")
        )

    @torch.no_grad()
    def _compute(
        self, tokens: list[int], prompt: int, untouched: int, labels: Sequence[list[int]]
    ) -> dict[str, torch.Tensor]:
        device = self._backbone.device
        cache = DynamicCache()
        outputs: list[torch.Tensor] = []
        frozen, above = self._blocks[: self.frozen_blocks], self._blocks[self.frozen_blocks :]
        with self._watch(frozen[-1], outputs), ExitStack() as undo:
            if not untouched:  # nothing above the frozen blocks is stored
                self._skip(above, undo)
            self._pass(torch.tensor([tokens], device=device), 0, cache)
            tensors = {"hidden": outputs.pop()[0]}
            if untouched:
                pairs = key_values(cache)[self.frozen_blocks :]
                tensors["keys"] = torch.stack([keys[0, :, :untouched] for keys, _ in pairs])
                tensors["values"] = torch.stack([values[0, :, :untouched] for _, values in pairs])
                self._skip(above, undo)
            if labels:
                if prompt < len(tokens):
                    cache.crop(prompt - len(tokens))
                cache.batch_repeat_interleave(len(labels))
                self._pass(label_inputs(labels)[0].to(device), prompt, cache)
                tensors["labels"] = outputs.pop()
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    def _pass(self, input_ids: torch.Tensor, start: int, cache: DynamicCache) -> None:
        positions = torch.arange(start, start + input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        self._backbone.run(cache, input_ids=input_ids, position_ids=positions, logits_to_keep=1)

    @contextmanager
    def resumed(self, hidden: torch.Tensor) -> Iterator[None]:
        """Start forward passes above the frozen blocks, from the hidden states at the last frozen block's output.

        Only the blocks' `forward` is replaced, so hooks on the blocks still run.

        Args:
            hidden: [batch, length, d], for the passes inside the context.
        """
        with ExitStack() as undo:
            self._skip(self._blocks[: self.frozen_blocks - 1], undo)
            undo.enter_context(self._replaced(self._blocks[self.frozen_blocks - 1], hidden))
            yield

    def _skip(self, blocks: Sequence[nn.Module], undo: ExitStack) -> None:
        for block in blocks:
            undo.enter_context(self._replaced(block, None))

    @contextmanager
    def _replaced(self, block: nn.Module, output: torch.Tensor | None) -> Iterator[None]:
        """Make a block return `output`, or its input if None, without computing."""

        def forward(hidden_states: torch.Tensor, *_args: Any, **_options: Any) -> Any:
            result = hidden_states if output is None else output
            return (result,) if self._as_tuple else result

        original = block.__dict__.get("forward")
        block.forward = forward
        try:
            yield
        finally:
            if original is None:
                del block.forward
            else:
                block.forward = original

    @contextmanager
    def _watch(self, block: nn.Module, outputs: list[torch.Tensor]) -> Iterator[None]:
        handle = block.register_forward_hook(
            lambda _block, _args, output: outputs.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def _blocks_return_tuples(self) -> bool:
        """Find out whether blocks return tuples: some model families' blocks do, others return a tensor."""
        kinds: list[bool] = []
        handle = self._blocks[0].register_forward_hook(lambda _b, _a, output: kinds.append(isinstance(output, tuple)))
        self._backbone.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self._backbone.device))
        handle.remove()
        return kinds[0]


def shares_keys(model: PreTrainedModel) -> bool:
    """Tell whether blocks use keys and values of blocks before them, which are missing if those do not run."""
    return bool(getattr(model.config.get_text_config(), "num_kv_shared_layers", 0))


def arithmetic(backbone: Backbone) -> dict[str, Any]:
    """Return what else affects the bits of a hidden state besides weights and tokens: settings, versions, hardware."""
    model = backbone.model
    settings = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    cuda = backbone.device.type == "cuda"
    return {
        "config": json.dumps(settings, sort_keys=True, default=str),
        "attention": str(model.config._attn_implementation),
        "dtype": str(model.dtype),
        "device": torch.cuda.get_device_name(backbone.device) if cuda else torch.backends.cpu.get_cpu_capability(),
        "matrix_units": torch.backends.cuda.matmul.allow_tf32 if cuda else torch.cpu._is_amx_tile_supported(),
        "threads": torch.get_num_threads(),
        "versions": [torch.__version__, transformers.__version__],
    }


def label_inputs(labels: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Arrange labels of at least two tokens as continuations of one prompt.

    Returns:
        Inputs (all tokens but the last), targets (all but the first) and a mask of the real tokens; each
        [labels, longest − 1], right-padded.
    """
    width = max(map(len, labels)) - 1
    inputs = torch.zeros(len(labels), width, dtype=torch.long)
    targets, real = inputs.clone(), inputs.clone()
    for row, label in enumerate(labels):
        tokens = torch.tensor(label)
        inputs[row, : len(label) - 1], targets[row, : len(label) - 1] = tokens[:-1], tokens[1:]
        real[row, : len(label) - 1] = 1
    return inputs, targets, real


def given_cache(layers: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> DynamicCache:
    """Make a cache of given keys and values, one pair per block, each [batch, heads, tokens, head size]."""
    cache = DynamicCache()
    for keys, values in layers:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def key_values(cache: DynamicCache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return a cache's keys and values, one pair per block; two empty tensors for a block that has none."""
    empty = torch.empty(0)
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)
        pairs.append((empty, empty) if layer.keys is None or layer.values is None else (layer.keys, layer.values))
    return pairs
