"""The seam of the project: what a method must offer, in tensors, adapters and a `fit` handed to it.

A method is both halves of one way to personalise federatedly. `client_*` runs on a client, `server_*` on the server;
what they exchange is named tensors, and names say what travels. Every tensor in a message is called `shared_*`;
`private_*` never leaves its client; `kept_*` stays on a client's disk but has been sent or received. The last dotted
part of a name is its group in the ledger (`shared_collective.10.R` belongs to group R). The server's state is named
tensors too, so that a run can be kept and taken up again: those called `shared_*` go to whoever is asked, `server_*`
stay where they are.
"""

import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from configs.errors import nearest
from strategies.moved import moved_hint

Tensors = dict[str, torch.Tensor]
"""Named fp32 tensors on the CPU."""


@dataclass(frozen=True)
class BackboneShape:
    """What a method may know of a backbone before it sees the module."""

    hidden: int
    """d, the width of the residual stream."""
    blocks: int
    """Number of decoder blocks."""
    parameters: int
    """Number of parameters, tied ones counted once."""
    linears: Mapping[str, tuple[int, int]] = field(default_factory=dict, compare=False)
    """Inputs n and outputs m of every linear module inside the decoder blocks, by its name in the model."""


@dataclass(frozen=True)
class FitResult:
    """What one local training did."""

    examples: int
    """Examples of the client; each was seen once per epoch."""
    steps: int
    """Optimiser steps."""
    loss_first: float
    """Mean loss of the first step, nats per answer token."""
    loss_last: float
    """Mean loss of the last step, nats per answer token."""


class Fit(Protocol):
    """The one local training loop (fl_clients/fit.py), bound to a client's examples and settings."""

    def __call__(self, parameters: Iterable[nn.Parameter], after_step: Callable[[], None] = ..., /) -> FitResult:
        """Train `parameters` in place; call `after_step` once after every optimiser step."""

    def loss(self, batches: int, /) -> float:
        """Return the mean loss over so many of the client's batches, nats per answer token, without training."""


@dataclass(frozen=True)
class TrainRequest:
    """One round of stage 1 for one collective user."""

    round: int
    """From 1; 0 is the opening of a method that has one."""
    shared: Tensors
    """What the server sent; nothing in the opening."""
    client_state: Tensors
    """What this client kept from its last round (`kept_*`, `private_*`); empty the first time."""
    fit: Fit
    """In the opening a whole training with stage 2's settings, else this round's part of stage 1's schedule."""


@dataclass(frozen=True)
class TrainResult:
    """What one round of stage 1 leaves."""

    shared: Tensors
    """Goes back to the server."""
    fit: FitResult
    client_state: Tensors | None = None
    """Replaces what the client keeps for its next round; None leaves it as it is."""


class Adapter(Protocol):
    """A method's trainable part, attached to a frozen backbone."""

    frozen_blocks: int
    """How many decoder blocks, from the first, compute the same whatever the adapter holds; a forward hook on the last
    one's output may still act. They are computed once and skipped from then on. An adapter without this attribute is
    taken to touch every block."""
    suffix: int | None
    """The adapter touches only the last so many prompt tokens; None, or no such attribute: it may touch any."""

    def active(self, prompt: torch.Tensor) -> AbstractContextManager[None]:
        """Let the adapter act on the forward pass inside the context.

        Args:
            prompt: Boolean mask [batch, length] of the prompt's tokens (no padding, no answer); with a `suffix` of
                the prompt's end alone, as long as that or longer. False everywhere where a prompt is continued from
                its keys and values.
        """

    def train(self, mode: bool = True, /) -> Any:
        """Turn dropout and the like on, or off."""


class Aggregator(Protocol):
    """Folds clients' replies into the next shared tensors, one at a time."""

    expected: Tensors
    """What a reply holds: names, shapes, dtypes, and where clients begin or began their training. The length of a
    client's step is taken from there."""
    per_user: bool
    """The outcome keeps clients apart, so rules that pool updates (strategies/aggregation/robust.py) do not apply."""

    def add(self, user: int, shared: Tensors, num_examples: int) -> None:
        """Take one client's reply. The caller fixes the order, so that sums round the same way always."""

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Return the server's next state and figures about the aggregation worth recording."""


@runtime_checkable
class Method(Protocol):
    """One way to personalise federatedly.

    A class that names it as its base (`class Mine(Method)`) gets the defaults below; methods never inherit from each
    other. A class that has every member without naming it is a method too.
    """

    name: str
    """Short name for tables and records."""
    first_round: int | None
    """1; 0 if stage 1 opens with a turn of every collective user, for which nothing is sent; None without stage 1."""

    def check(self, backbone: BackboneShape) -> None:
        """Refuse settings that do not fit the backbone; by default those that `server_init` refuses.

        Raises:
            ValueError: Names the setting and what was expected.
        """
        self.server_init(backbone)

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return the server's state at the start."""

    def server_send(self, state: Tensors, user: int | None) -> Tensors:
        """Return what is sent to `user` (a partition id) when it is asked next; None is a newcomer.

        By default the same for all: every `shared_*` tensor of the state.
        """
        return travelling(state)

    def server_aggregator(self, state: Tensors, round_number: int) -> Aggregator:
        """Return the fold of one round's replies."""

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> Adapter:
        """Put this method's adapter on a frozen backbone, inactive."""

    def client_train(self, adapter: Any, request: TrainRequest) -> TrainResult:
        """Stage 1 on one collective user."""

    def client_personalize(self, adapter: Any, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult] | None:
        """Stage 2 on one target user: return the private tensors, which never leave the client.

        None, the default: the method has no personal part, and the shared tensors serve everyone.
        """
        return None

    def client_load(self, adapter: Any, shared: Tensors, private: Tensors | None) -> None:
        """Set the adapter for inference; `private=None` means the shared tensors only."""

    def shared_parameters(self, backbone: BackboneShape) -> int:
        """Return how many numbers one collective user sends back in a round; by default as many as it was sent."""
        return sum(tensor.numel() for tensor in travelling(self.server_init(backbone)).values())

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return how many numbers one target user keeps; by default none."""
        return 0


def travelling(state: Tensors) -> Tensors:
    """Return those of the server's tensors that go to whoever is asked: all called `shared_*`."""
    return {name: value for name, value in state.items() if name.startswith("shared_")}


IMPORTING = threading.RLock()
"""Held while a method, or a Flower app that works with one, is imported.

A simulation's process imports the ServerApp and its method in one thread and the ClientApp in another. `transformers`
puts another module in its own place at the end of its import; a thread that asked for it meanwhile has the first.
"""


def load_method(
    reference: str, values: Mapping[str, Any], settings: Mapping[str, Any], import_path: Sequence[str] = ()
) -> Method:
    """Build the method that `reference` names.

    Args:
        reference: `module:Class`.
        values: What the run's config offers to any method by name (`sites`, `rank_shared`, …); the
            constructor takes those it has a parameter for.
        settings: Arguments for this method alone; each must be a parameter of the constructor.
        import_path: Folders to import the method from, besides what is installed. They stay at the end of `sys.path`,
            for what the method imports later.

    Raises:
        ValueError: The reference cannot be imported, is not a Method, or refuses its arguments.
    """
    module_name, _, class_name = reference.partition(":")
    try:
        with IMPORTING, _searched_first(import_path):
            factory = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # whatever somebody's file may raise while it is imported
        problem = f"{type(error).__name__}: {error}{moved_hint(error)}"
        raise ValueError(f"method '{reference}' cannot be imported: {problem}") from error
    parameters = inspect.signature(factory).parameters
    for key in settings:
        if key in values:
            raise ValueError(f"settings.{key}: this key stands at the top level of the config, not under settings")
        if key not in parameters:
            own = [name for name in parameters if name not in values]
            raise ValueError(f"settings.{key}: {reference} takes {', '.join(own) or 'no settings'}{nearest(key, own)}")
        expected = parameters[key].annotation
        if expected is not inspect.Parameter.empty:
            _check_type(f"settings.{key}", settings[key], expected)
    missing = [
        f"settings.{key}"
        for key, each in parameters.items()
        if key not in values
        and key not in settings
        and each.default is each.empty
        and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if missing:
        raise ValueError(f"method '{reference}' needs {', '.join(missing)}")
    chosen = {key: value for key, value in values.items() if key in parameters}
    method = factory(**{**chosen, **settings})
    if not isinstance(method, Method):
        raise ValueError(f"method '{reference}' lacks a part of strategies.method.Method")
    return method


@contextmanager
def _searched_first(import_path: Sequence[str]) -> Iterator[None]:
    sys.path[:0] = import_path
    try:
        yield
    finally:
        del sys.path[: len(import_path)]
        sys.path += [folder for folder in import_path if folder not in sys.path]


def _check_type(key: str, value: Any, expected: Any) -> None:
    try:
        TypeAdapter(expected, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"{key}={value!r}: {problem[0].lower()}{problem[1:]}") from None
