"""The server's side of coded messages: writes each client what it has missed, reads the changes that come back."""

from dataclasses import replace

import torch

from configs.errors import RunFailed
from configs.schema import RunConfig
from configs.seeds import derive_seed
from fl_server.record.reply import ClientReply
from strategies.codecs import (
    EXACT,
    Copies,
    Layout,
    Reference,
    change_name,
    codecs_of,
    copy_name,
    find_codec,
    minus,
    plus,
    read_blob,
    values_name,
)
from strategies.method import Method, Tensors, travelling
from strategies.wire import Payload

_REFERENCE, _CHANGE, _VERSION, _START = "wire.reference.", "wire.change.", "wire.version", "wire.start."


class ServerCoding:
    """The codecs of one run; with `raw` both ways, tensors pass as they are.

    A round's change leads from what clients hold, not from what the server held, to the server's tensors. So what a
    codec left out in one round is part of the next round's change.
    """

    def __init__(self, config: RunConfig, method: Method, checkpoint: Tensors) -> None:
        """Continue from a checkpoint's tensors, or begin with the initial ones."""
        self._seed, self._method = config.seed, method
        self._of_values = config.wire.down_of == "values"
        self._starts_elsewhere = bool(config.start_from)
        self._masked = config.secure.aggregation
        self._up, self._down = codecs_of(config.wire.up, config.wire.down, method)
        held = {name.removeprefix(_REFERENCE): v for name, v in checkpoint.items() if name.startswith(_REFERENCE)}
        # Everybody knows the version of the first round from the seed, but not the tensors of another run, nor which of
        # the values a codec keeps.
        self._first = method.first_round or 0
        begin = self._first + 1 if self._starts_elsewhere else 0 if self._of_values else self._first
        self._reference = Reference(int(checkpoint.get(_VERSION, begin)), held)
        if self._down is not None and not held:
            self._reference = replace(self._reference, tensors=method.to_wire(travelling(checkpoint)))
        start = {name.removeprefix(_START): v for name, v in checkpoint.items() if name.startswith(_START)}
        self._copies = Copies(find_codec(config.wire.copy_as), start or self._reference.tensors)
        self._copy: tuple[int, bytes] | None = None
        changes = {name.removeprefix(_CHANGE): v for name, v in checkpoint.items() if name.startswith(_CHANGE)}
        self._changes = {int(version): value.numpy().tobytes() for version, value in changes.items()}

    def advance(self, version: int, state: Tensors) -> None:
        """Write what leads to a version, unless it is written already, or the state never changes.

        Args:
            version: The round in which it is sent.
            state: The server's tensors.

        Raises:
            RunFailed: The state is not finite.
        """
        if self._down is None or self._starts_elsewhere or version <= self._reference.version:
            return
        seed = derive_seed(self._seed, "wire", "down", version)
        goal = self._method.to_wire(travelling(state))
        try:
            if self._of_values:
                blob, name = self._reference.write_values(self._down, goal, seed), values_name(version)
                self._changes = {}
            else:
                blob, name = self._reference.write_change(self._down, goal, seed), change_name(version)
            self._reference = self._reference.receive(self._down, {name: blob}, self._copies)
        except ValueError as error:
            raise RunFailed(
                f"round {version}: wire.down='{self._down.name}' cannot write the tensors: {error}"
            ) from None
        self._changes[version] = blob
        # Whoever lacks changes that together are longer than a copy gets a copy.
        while len(self._changes) > 1 and sum(map(len, self._changes.values())) > len(self._written_copy()):
            del self._changes[min(self._changes)]

    def begin_anew(self, state: Tensors) -> None:
        """Take tensors that no change leads to, such as those of an earlier round: everybody gets a copy."""
        if self._down is not None:
            self._reference = Reference(self._reference.version + 1, self._method.to_wire(travelling(state)))
            self._changes = {}

    def payload(self, state: Tensors, user: int | None, last_turn: int = 0, whole: bool = False) -> Payload:
        """Return what a client is sent.

        Args:
            state: The server's tensors.
            user: Partition id; None is a newcomer.
            last_turn: The last round in which its update was counted, from which it has kept what it received; else 0.
            whole: Send a copy: it failed, perhaps because it has lost what it kept.
        """
        if self._down is None:
            return Payload(self._plain(state, user))
        version = self._reference.version
        if self._of_values and version in self._changes:
            return Payload({}, {values_name(version): self._changes[version]})
        missing = self._missing(last_turn)
        if not whole and missing is not None:
            return Payload({}, blobs={change_name(number): self._changes[number] for number in missing})
        return Payload({}, blobs={copy_name(version): self._written_copy(exact=whole)})

    def newcomers_tensors(self, state: Tensors) -> Tensors:
        """Return the tensors that a newcomer has after decoding."""
        if self._down is None:
            return self._plain(state, None)
        reference = self._reference
        if self._of_values or self._missing(0) is not None:
            return self._method.from_wire(reference.tensors)
        return self._method.from_wire(self._copies.read(reference.layout, self._written_copy(), reference.version))

    def as_sent(self, state: Tensors) -> Tensors:
        """Return the state with the shared tensors that clients decode."""
        return state if self._down is None else state | self.newcomers_tensors(state)

    def decoded(self, reply: ClientReply, state: Tensors, version: int) -> ClientReply:
        """Return a reply with the client's tensors, or with a fault if its change cannot be read.

        A client's change is added to the server's tensors, which with a codec down are not quite what it received.

        Args:
            reply: The reply.
            state: The server's tensors.
            version: The round.
        """
        if (self._up is None and self._down is None) or not reply.report or self._masked:
            return reply
        try:
            base = self._method.to_wire(travelling(state))
            shared = self._method.from_wire(plus(base, self._change(reply, Layout.of(base), version)))
        except (ValueError, KeyError, RuntimeError) as error:
            fault = f"its change cannot be read: {error}"
            return replace(reply, shared={}, blobs={}, report=None, fault=fault)
        return replace(reply, shared=shared, blobs={})

    def saved(self) -> Tensors:
        """Return what a checkpoint needs."""
        if self._down is None:
            return {}
        changes = {
            f"{_CHANGE}{version}": torch.frombuffer(bytearray(change), dtype=torch.uint8)
            for version, change in self._changes.items()
        }
        # A checkpoint's tensors may not share memory with the state's.
        held = {f"{_REFERENCE}{name}": value.clone() for name, value in self._reference.tensors.items()}
        if self._copies.codec.name != EXACT:
            held |= {f"{_START}{name}": value.clone() for name, value in self._copies.start.items()}
        return changes | held | {_VERSION: torch.tensor(self._reference.version)}

    def _plain(self, state: Tensors, user: int | None) -> Tensors:
        # With `start_from`, the state already is what newcomers are sent.
        same = self._starts_elsewhere and not self._method.introduces
        return travelling(state) if same else self._method.server_send(state, user)

    def _missing(self, last_turn: int) -> range | None:
        """Return the changes since a turn; None if some are no longer kept."""
        missing = range(max(last_turn, self._first) + 1, self._reference.version + 1)
        return missing if all(number in self._changes for number in missing) else None

    def _written_copy(self, exact: bool = False) -> bytes:
        """Return a copy of this version; exact ones, and those of another run's tensors, have no error."""
        version = self._reference.version
        if exact or self._starts_elsewhere:
            return self._copies.write(self._reference, 0, exact=True)
        if self._copy is None or self._copy[0] != version:
            seed = derive_seed(self._seed, "wire", "copy", version)
            self._copy = version, self._copies.write(self._reference, seed)
        return self._copy[1]

    def _change(self, reply: ClientReply, layout: Layout, version: int) -> Tensors:
        if self._up is not None:
            if set(reply.blobs) != {change_name(version)} or reply.shared:
                raise ValueError(f"expected one array '{change_name(version)}'")
            return read_blob(self._up, layout, reply.blobs[change_name(version)], version)
        trained = self._method.to_wire(reply.shared)
        if Layout.of(trained) != layout:
            raise ValueError("its tensors have other names or shapes than those sent out")
        received = self._method.from_wire(self._reference.tensors)
        return minus(trained, self._method.to_wire(received))
