"""A client's part in secure aggregation: keys, shares, a masked update, and the shares that take the masks off.

What a round needs later is kept in a file of the client's own, since any process may handle its next message.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from configs.files import write_atomic
from configs.secure import SecureConfig
from fl_clients.process.paths import ClientPaths
from strategies.secure.keys import KeyPair, agree, key_pair_of, new_key_pair, new_secret, seal, split, unseal
from strategies.secure.ring import Ring

_SHARE_BYTES = 52


@dataclass
class _Round:
    """What a client remembers of a round; bytes as hexadecimal digits."""

    number: int
    encryption: str
    """Private key for shares."""
    masking: str
    """Private key for masks."""
    keys: dict[str, str] = field(default_factory=dict)
    """Both public keys of every user of the round, by partition id."""
    self_mask: str = ""
    own_shares: str = ""
    sent: dict[str, str] = field(default_factory=dict)
    """Shares for the others."""
    sealed: dict[str, str] = field(default_factory=dict)
    """Shares from the others."""
    masked: str = ""
    """Digest of the update that was masked, and with whom."""
    revealed: list[int] = field(default_factory=list)
    """The users whose sum was opened."""


class SecureClient:
    """One client's part in one round."""

    def __init__(self, paths: ClientPaths, config: SecureConfig, number: int) -> None:
        """Bind to a client and a round."""
        self._me, self._config, self._number = paths.partition, config, number
        self._path: Path = paths.run_dir / ".secure" / f"{paths.partition}.json"

    def advertise(self) -> dict[int, bytes]:
        """Begin a round: draw two key pairs and return their public keys, 64 bytes.

        A round that the server repeats has new keys, but whose sum was opened stays: the difference of two sums of
        different users would be an update.
        """
        encryption, masking = new_key_pair(), new_key_pair()
        before = self._stored()
        opened = before.revealed if before and before.number == self._number else []
        self._write(_Round(self._number, encryption.private.hex(), masking.private.hex(), revealed=opened))
        return {self._me: encryption.public + masking.public}

    def share(self, keys: Mapping[int, bytes]) -> dict[int, bytes]:
        """Return shares of this client's two secrets for every other user, encrypted for that user.

        Args:
            keys: Both public keys of every user of the round, as the server passed them on.

        Raises:
            ValueError: They are too few, not all different, or do not have this client's own.
        """
        state = self._read()
        encryption, masking = self._pairs(state)
        needed = self._config.users_needed(len(keys))
        if len(keys) < needed or len({*keys.values()}) < len(keys):
            raise ValueError(f"{len(keys)} users began the round, {needed} different ones are needed")
        if 2 * needed <= len(keys):
            raise ValueError(f"secure.threshold={needed} is not more than half of the {len(keys)} users of the round")
        if keys.get(self._me) != encryption.public + masking.public:
            raise ValueError("the server passes on other keys than this client's")
        known = {str(user): value.hex() for user, value in keys.items()}
        if state.sent and state.keys != known:
            raise ValueError("the server passes on other keys than before")
        if state.sent:  # the first answer was lost
            return {int(user): bytes.fromhex(value) for user, value in state.sent.items()}
        state.self_mask = new_secret().hex()
        users = sorted(keys)
        shares = {
            user: mask_key + self_mask
            for user, mask_key, self_mask in zip(
                users,
                split(masking.private, needed, len(users)),
                split(bytes.fromhex(state.self_mask), needed, len(users)),
                strict=True,
            )
        }
        state.keys, state.own_shares = known, shares.pop(self._me).hex()
        sealed = {
            user: seal(self._key_with(state, encryption, user), text, self._context(self._me, user))
            for user, text in shares.items()
        }
        state.sent = {str(user): value.hex() for user, value in sealed.items()}
        self._write(state)
        return sealed

    def mask(self, values: np.ndarray, sealed: Mapping[int, bytes], seed: int) -> tuple[np.ndarray, int]:
        """Return an update that only the sum takes the masks off: bytes [N·k], and how many values were cut.

        y_u = q_u + PRG(b_u) + Σ_{v>u} PRG(s_uv) − Σ_{v<u} PRG(s_uv), with v over the users whose shares came.

        Args:
            values: The update's numbers [N].
            sealed: Shares for this client by sender.
            seed: Of the rounding.

        Raises:
            ValueError: Too few users have sent shares, one did not begin the round, or another update was masked.
        """
        state = self._read()
        mark = hashlib.sha256(values.tobytes() + repr(sorted(sealed.items())).encode()).hexdigest()
        if state.masked not in ("", mark):
            raise ValueError("another update was masked with these keys, and the difference would show")
        state.masked = mark
        needed = self._config.users_needed(len(state.keys))
        if len(sealed) + 1 < needed or not {str(user) for user in sealed} <= state.keys.keys():
            raise ValueError(f"{len(sealed) + 1} users have sent shares, {needed} of the round's are needed")
        ring = Ring(self._config.bytes, self._config.limit, len(state.keys))
        total, cut = ring.encode(values, seed)
        total = ring.add(total, ring.mask(bytes.fromhex(state.self_mask), len(values)))
        for user in sealed:
            public = bytes.fromhex(state.keys[str(user)])[32:]
            pairwise = ring.mask(agree(bytes.fromhex(state.masking), public, "mask"), len(values))
            total = ring.add(total, pairwise, 1 if user > self._me else -1)
        state.sealed = {str(user): value.hex() for user, value in sealed.items()}
        self._write(state)
        return ring.pack(total), cut

    def reveal(self, alive: Collection[int], dropped: Collection[int]) -> dict[int, bytes]:
        """Return this client's share of b_v for users whose update came, of the masking key for those who dropped out.

        A share that its sender has not written for this client is left out; those of others may be enough.

        Raises:
            ValueError: Too few updates came, or the server asks for both secrets of a user, which would unmask it.
        """
        state = self._read()
        if state.revealed and state.revealed != sorted(alive):
            raise ValueError("the server asks a second time, for the sum of other users")
        needed = self._config.users_needed(len(state.keys))
        known = {*map(int, state.sealed), self._me}
        if len(alive) < needed or {*alive} & {*dropped} or not {*alive, *dropped} <= known:
            raise ValueError(f"the server asks for secrets that only {needed} updates and users who dropped out allow")
        state.revealed = sorted(alive)
        self._write(state)
        encryption, _ = self._pairs(state)
        revealed = {}
        for user in (*alive, *dropped):
            text = bytes.fromhex(state.own_shares)
            if user != self._me:
                key, sealed = self._key_with(state, encryption, user), bytes.fromhex(state.sealed[str(user)])
                try:
                    text = unseal(key, sealed, self._context(user, self._me))
                except ValueError:
                    continue
            revealed[user] = text[_SHARE_BYTES:] if user in alive else text[:_SHARE_BYTES]
        return revealed

    def _pairs(self, state: _Round) -> tuple[KeyPair, KeyPair]:
        return key_pair_of(bytes.fromhex(state.encryption)), key_pair_of(bytes.fromhex(state.masking))

    def _key_with(self, state: _Round, encryption: KeyPair, user: int) -> bytes:
        return agree(encryption.private, bytes.fromhex(state.keys[str(user)])[:32], "share")

    def _context(self, sender: int, receiver: int) -> str:
        return f"user {receiver} by user {sender} in round {self._number}"

    def _stored(self) -> _Round | None:
        if not self._path.is_file():
            return None
        return _Round(**json.loads(self._path.read_text(encoding="utf-8")))

    def _read(self) -> _Round:
        state = self._stored()
        if state is None or state.number != self._number:
            raise ValueError(f"round {self._number}: this client has drawn no keys for it")
        return state

    def _write(self, state: _Round) -> None:
        self._path.parent.mkdir(exist_ok=True, mode=0o700)
        write_atomic(self._path, json.dumps(asdict(state)), private=True)
