"""A client's side of coded messages: reads what the server sent, writes the change that its training made."""

from functools import cached_property

import torch

from configs.schema import RunConfig
from configs.seeds import derive_seed
from strategies.codecs import (
    Copies,
    Layout,
    Reference,
    change_name,
    codecs_of,
    find_codec,
    minus,
    plus,
    read_blob,
    write_blob,
)
from strategies.method import BackboneShape, Method, Tensors, travelling
from strategies.wire import Payload

REFERENCE, LEFT_OUT = "kept_reference.", "private_left_out."
"""Prefixes in the client's store: the server's tensors that it holds, and what its codec has not sent yet."""
_VERSION = "version"


class ClientCoding:
    """The codecs of one run; with `raw` both ways, tensors pass as they are."""

    def __init__(self, config: RunConfig, method: Method, backbone: BackboneShape) -> None:
        """Set up the codecs that the config names."""
        self._config, self._method, self._backbone = config, method, backbone
        self._up, self._down = codecs_of(config.wire.up, config.wire.down, method)

    def receive(self, payload: Payload, store: Tensors) -> tuple[Tensors, Tensors]:
        """Read the shared tensors of a message.

        Args:
            payload: What the server sent; empty in an opening round.
            store: What this client keeps since its last turn that the server counted; empty for a newcomer.

        Returns:
            The shared tensors, and what to keep for the next message.

        Raises:
            ValueError: A blob cannot be read, or does not follow what the client holds.
        """
        if payload.tensors:  # no codec, or what the user is evaluated with in place of what is its own
            return payload.tensors, {}
        if self._down is None:
            return self.start if self._up is not None else {}, {}
        held = _with_prefix(store, REFERENCE)
        version = held.pop(_VERSION, None)
        known = (
            Reference(self._method.first_round or 0, self._start) if version is None else Reference(int(version), held)
        )
        reference = known.receive(self._down, payload.blobs, self._copies)
        kept = reference.tensors | {_VERSION: torch.tensor(reference.version)}
        return self._method.from_wire(reference.tensors), _prefixed(kept, REFERENCE)

    def reply(
        self, trained: Tensors, received: Tensors, store: Tensors, turn: tuple[int, int], user_id: str
    ) -> tuple[Payload, Tensors]:
        """Write what training changed.

        Args:
            trained: The tensors after training.
            received: Those before, as `receive` returned them.
            store: What this client keeps since its last turn.
            turn: This round, and the round of the last turn (−1 if none).
            user_id: For the seed.

        Returns:
            The payload, and what to keep for the next message: what the codec left out.
        """
        if self._up is None:
            return Payload(trained), {}
        number, last = turn
        change = minus(self._method.to_wire(trained), self._method.to_wire(received))
        if owed := _with_prefix(store, LEFT_OUT):
            decay = self._config.wire.error_decay ** (number - last - 1)
            change = plus(change, {name: decay * value for name, value in owed.items()})
        layout = Layout.of(change)
        seed = derive_seed(self._config.seed, "wire", "up", number, user_id)
        blob = write_blob(self._up, layout, change, number, seed)
        payload = Payload({}, blobs={change_name(number): blob})
        # What an opening trains is not what the rounds train.
        if not (self._up.feedback and self._config.wire.feedback and number):
            return payload, {}
        return payload, _prefixed(minus(change, read_blob(self._up, layout, blob, number)), LEFT_OUT)

    @property
    def start(self) -> Tensors:
        """The shared tensors before the first round, which every client knows from the seed."""
        return self._method.from_wire(self._start)

    @cached_property
    def _copies(self) -> Copies:
        return Copies(find_codec(self._config.wire.copy_as), self._start)

    @cached_property
    def _start(self) -> Tensors:
        """The initial values in wire form, which every client knows from the seed."""
        return self._method.to_wire(travelling(self._method.server_init(self._backbone)))


def _prefixed(tensors: Tensors, prefix: str) -> Tensors:
    # Copies: what is stored may not share memory with what a method keeps.
    return {f"{prefix}{name}": value.clone() for name, value in tensors.items()}


def _with_prefix(store: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in store.items() if name.startswith(prefix)}
