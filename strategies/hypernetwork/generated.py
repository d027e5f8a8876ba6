"""An adapter whose tensors a network may write anew for every forward pass, so that a gradient reaches the network."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from strategies.by_row import written
from strategies.hypernetwork.outputs import Places
from strategies.lora.adapters import LoraAdapters
from strategies.method import Tensors
from strategies.shifts.sites import SiteShifts


class Generated:
    """Acts as the adapter inside it, with its own tensors or, in `written_by`, with a network's."""

    def __init__(self, inner: LoraAdapters | SiteShifts) -> None:
        """Take an attached adapter."""
        self.inner = inner
        self.frozen_blocks, self.suffix = inner.frozen_blocks, inner.suffix
        self._write: Callable[[], Tensors] | None = None
        self._places: Places = {}
        self._network: nn.Module | None = None

    @contextmanager
    def written_by(self, write: Callable[[], Tensors], places: Places, network: nn.Module) -> Iterator[None]:
        """Take the tensors from `write` inside the context, whose training mode is that of the network."""
        self._write, self._places, self._network = write, places, network
        try:
            yield
        finally:
            self._write, self._places, self._network = None, {}, None

    @contextmanager
    def active(self, prompt: torch.Tensor) -> Iterator[None]:
        """Let the adapter act inside the context."""
        with ExitStack() as undo:
            for name, value in self._write().items() if self._write else ():
                module, attribute = self._places[name]
                # The network stays on the CPU, and the adapter may be on a GPU.
                undo.enter_context(written(module, attribute, value.to(getattr(module, attribute).device)))
            undo.enter_context(self.inner.active(prompt))
            yield

    def train(self, mode: bool = True, /) -> None:
        """Turn dropout on or off, the network's if it writes."""
        self.inner.train(mode)
        if self._network is not None:
            self._network.train(mode)
