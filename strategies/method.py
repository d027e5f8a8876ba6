"""The interface that every method implements, in terms of tensors, adapters and a `fit` function passed to it.

A method is both halves of one way to personalise federatedly. `client_*` runs on a client, `server_*` on the server.
They exchange named tensors, and the names determine what is sent. Every tensor in a message is named `shared_*`;
`private_*` never leaves its client; `kept_*` stays on a client's disk but has been sent or received. The last dotted
part of a name is its group in the ledger (`shared_collective.10.R` belongs to group R). The server's state consists of
named tensors too, so that a run can be saved and resumed: `shared_*` tensors are sent to clients, `server_*` tensors
stay on the server.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from strategies.client_tools import Context, UserTexts
from strategies.client_tools import Fit as Fit
from strategies.client_tools import FitResult as FitResult

Tensors = dict[str, torch.Tensor]
"""Named tensors on the CPU: fp32, but for numbers of rounds or layers and for packed bytes, which are integers."""


@dataclass(frozen=True)
class BackboneShape:
    """What a method may know about a backbone before the model is loaded."""

    hidden: int
    """d, the width of the residual stream."""
    blocks: int
    """Number of decoder blocks."""
    parameters: int
    """Number of parameters, tied ones counted once."""
    linears: Mapping[str, tuple[int, int]] = field(default_factory=dict, compare=False)
    """Inputs n and outputs m of every linear module inside the decoder blocks, by its name in the model."""
    positions: int | None = field(default=None, compare=False)
    """Tokens in the longest text that the model was made for; None if it does not say."""
    heads: int = field(default=0, compare=False)
    """Query heads of a block; 0 if the model does not say."""
    head_size: int = field(default=0, compare=False)
    """Width of one head's output."""
    mlps: bool = field(default=True, compare=False)
    """Every block has one module that is its feed-forward network."""


@dataclass(frozen=True)
class TrainRequest:
    """One round of stage 1 for one collective user."""

    round: int
    """From 1; 0 is the opening round of a method that has one."""
    shared: Tensors
    """What the server sent; empty in the opening round."""
    client_state: Tensors
    """What this client kept from its last round (`kept_*`, `private_*`); empty the first time."""
    fit: Fit
    """In the opening round a full training with stage 2's settings, else this round's part of stage 1's schedule."""

    def __getattr__(self, name: str) -> Any:
        """Tell a method of version 0.1 the new name of what it asks for."""
        hint = "; since version 0.2 it is `client_state`" if name == "kept" else ""
        raise AttributeError(f"a TrainRequest has no {name!r}{hint}")


@dataclass(frozen=True)
class TrainResult:
    """What a collective user returns and keeps after one round of stage 1."""

    shared: Tensors
    """Sent back to the server."""
    fit: FitResult
    client_state: Tensors | None = None
    """Replaces what the client keeps for its next round; None leaves it unchanged."""


class Adapter(Protocol):
    """A method's trainable part, attached to a frozen backbone."""

    frozen_blocks: int
    """Number of first decoder blocks whose computation does not depend on the adapter; a forward hook on the output of
    the last one may still act. They are computed once and skipped afterwards. An adapter without this attribute is
    assumed to touch every block."""
    suffix: int | None
    """The adapter touches only this many last prompt tokens; None, or no such attribute: it may touch any."""
    # Optional, and therefore no part of the protocol, for `engine = "vectorized"`, which otherwise trains one client
    # at a time: `row_modules`, which hold every parameter in which clients may differ, and may have a value for each
    # row of a batch (strategies/by_row.py), and `acting`, what else acts, as a hashable value that can be set; None if
    # several clients cannot share it.

    def active(self, prompt: torch.Tensor) -> AbstractContextManager[None]:
        """Let the adapter act on the forward pass inside the context.

        Args:
            prompt: Boolean mask [batch, length] of the prompt's tokens (no padding, no answer); with a `suffix`, of
                at least the prompt's last `suffix` tokens. All False if a prompt is continued from its keys and
                values.
        """

    def train(self, mode: bool = True, /) -> Any:
        """Turn training behaviour, such as dropout, on or off."""


class Aggregator(Protocol):
    """Combines clients' replies, one at a time, into the next shared tensors."""

    expected: Tensors
    """The names, shapes and dtypes of a reply. The length of a client's step is measured from the values, where clients
    start their training if all start alike."""
    per_user: bool
    """The result keeps clients separate, so rules that pool updates (strategies/aggregation/robust.py) do not apply."""

    def add(self, user: int, shared: Tensors, num_examples: int) -> None:
        """Add one client's reply. The caller fixes the order, so that sums always round the same way."""

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Return the server's next state, and figures about the aggregation for the run record."""


@runtime_checkable
class Method(Protocol):
    """One way to personalise federatedly.

    A class that names it as its base (`class Mine(Method)`) gets the defaults below; methods never inherit from each
    other. A class that has every member without naming it is a method too.
    """

    name: str
    """Short name for tables and records."""
    first_round: int | None
    """1; 0 if stage 1 opens with a round of all collective users who are sent nothing; None without stage 1."""
    last_round: int | None = None
    """The last round of stage 1; None: as the config says."""
    constant_shapes: bool = True
    """Every round sends tensors of the same names and shapes, so that codecs and server optimisers apply."""
    sends_alike: bool | None = None
    """Whether all users are sent the same in stage 1, so that changes of it can be coded; None: unless `server_send` or
    `server_controls` is the method's own."""
    trains_newcomers: bool = True
    """Stage 2, if there is one, takes steps. False: newcomers keep what they are sent, or make it without steps."""
    personal_keys: tuple[str, ...] = ()
    """Config keys that concern stage 2 alone: a run with other values may start from the same stage 1."""
    embedder: str = "backbone"
    """What `fit.client.embed` is called with: `backbone`, `words`, or a sentence embedder, which is fetched before the
    run."""
    introduces: bool = False
    """Target users take part in the opening too, with their history, before they are served first: what the server
    sends to one of them depends on what it sent then. Needs `first_round = 0`."""

    def check(self, backbone: BackboneShape) -> None:
        """Refuse settings that do not fit the backbone; by default those that `server_init` refuses.

        Raises:
            ValueError: Names the setting and what was expected.
        """
        self.server_init(backbone)

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return the server's state at the start."""

    def server_send(self, state: Tensors, user: int | None) -> Tensors:
        """Return what is sent to `user` (a partition id) with its next task; None is a newcomer.

        By default the same for all: every `shared_*` tensor of the state.
        """
        return travelling(state)

    def server_aggregator(self, state: Tensors, round_number: int) -> Aggregator:
        """Return the aggregator of one round's replies; of 0 also for the target users' introduction."""

    def server_controls(self, state: Tensors, user: int, other: int | None) -> Mapping[str, Callable[[], Tensors]]:
        """Return, by the name of a control, what makes the tensors that a target user could be sent instead of its own.

        They are evaluated beside what the user is sent, which shows whether that is personal. By default none.

        Args:
            state: The server's tensors.
            user: A target user's partition id.
            other: Another target user's; None if there is none.
        """
        return {}

    def server_keeps(self, state: Tensors) -> Tensors:
        """Return the `server_*` tensors that a later run needs to serve newcomers (`start_from`); by default none."""
        return {}

    def to_wire(self, shared: Tensors) -> Tensors:
        """Return shared tensors in the coordinates whose changes a codec writes (`wire.up`, `wire.down`).

        By default the tensors themselves. The names and shapes may not depend on the values.
        """
        return shared

    def from_wire(self, coded: Tensors) -> Tensors:
        """Return the shared tensors of coordinates that a codec has changed; what they must satisfy holds again."""
        return coded

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> Adapter:
        """Attach this method's adapter to a frozen backbone, inactive."""

    def client_train(self, adapter: Any, request: TrainRequest) -> TrainResult:
        """Run one round of stage 1 on one collective user."""

    def client_personalize(self, adapter: Any, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult] | None:
        """Run stage 2 on one target user and return the private tensors, which never leave the client.

        None, the default: the method has no personal part, and the shared tensors serve everyone. A method that tunes
        nothing returns what it keeps, if only `{}`, and a `FitResult` without steps.
        """
        return None

    def client_context(self, adapter: Any, client: UserTexts, source: str) -> Context:
        """Return what precedes a target user's question in its personalised prompt; by default nothing.

        Args:
            adapter: With the user's model set by `client_load`.
            client: The user's texts.
            source: The question's text.
        """
        return Context()

    def client_load(self, adapter: Any, shared: Tensors, private: Tensors | None) -> None:
        """Set the adapter for inference; `private=None` means the shared tensors only."""

    def shared_parameters(self, backbone: BackboneShape) -> int:
        """Return how many numbers one collective user sends back in a round; by default as many as it was sent."""
        return sum(tensor.numel() for tensor in travelling(self.server_init(backbone)).values())

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return how many numbers one target user keeps; by default none."""
        return 0


def has_personal_part(method: Method) -> bool:
    """Tell whether a target user gets answers of its own: from what it keeps, or from its texts in the prompt."""
    kind = type(method)
    return any(getattr(kind, name) is not getattr(Method, name) for name in ("client_personalize", "client_context"))


def travelling(state: Tensors) -> Tensors:
    """Return the server's tensors that are sent to clients: all named `shared_*`."""
    return {name: value for name, value in state.items() if name.startswith("shared_")}
