"""Integers whose sum is read: how numbers become integers, and the masks that are added to them.

An update's numbers x ∈ [−l, l] become q = (x + l)/(2l)·L, rounded at random so that q is right on average, with
L = ⌊(2^(8k) − 1)/n⌋ steps. So the sum of n integers fits into k bytes, and all arithmetic is modulo 2^(8k).
"""

from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

_CTR = CTR(bytes(16))
"""Every key is used once, so that the counter may start at 0."""


@dataclass(frozen=True)
class Ring:
    """Integers modulo 2^(8k)."""

    width: int
    """k, bytes an integer."""
    limit: float
    """l."""
    users: int
    """n, how many updates are summed at most."""

    @property
    def steps(self) -> int:
        """L, the largest integer of one user.

        Raises:
            ValueError: There is no room for a single step.
        """
        steps = ((1 << (8 * self.width)) - 1) // self.users
        if steps < 2:
            raise ValueError(f"secure.bytes={self.width}: no room for the sum of {self.users} users; choose more bytes")
        return steps

    def encode(self, values: np.ndarray, seed: int) -> tuple[np.ndarray, int]:
        """Return integers [N] as uint32, and how many values were cut to ±l.

        Args:
            values: Numbers [N].
            seed: Of the rounding.

        Raises:
            ValueError: A value is not finite.
        """
        if not np.isfinite(values).all():
            raise ValueError("a change to send is not finite")
        cut = int((np.abs(values) > self.limit).sum())
        within = np.clip(values.astype(np.float64), -self.limit, self.limit)
        exact = (within + self.limit) / (2 * self.limit) * self.steps
        rounded = np.floor(exact + np.random.default_rng(seed).random(len(values)))
        return np.minimum(rounded, self.steps).astype(np.uint32), cut

    def decode_sum(self, total: np.ndarray, users: int) -> np.ndarray:
        """Return the sum of `users` users' numbers [N] as float64; it is off by at most 2l/L for each of them."""
        return total.astype(np.float64) / self.steps * 2 * self.limit - users * self.limit

    def add(self, one: np.ndarray, other: np.ndarray, sign: int = 1) -> np.ndarray:
        """Return one ± other modulo 2^(8k)."""
        total: np.ndarray = one + other if sign > 0 else one - other
        return total & np.uint32((1 << (8 * self.width)) - 1)

    def mask(self, seed: bytes, count: int) -> np.ndarray:
        """Return integers [count] that follow from a secret of 32 bytes (AES-256 in counter mode)."""
        stream = Cipher(AES256(seed), _CTR).encryptor().update(bytes(count * self.width))
        return self.unpack(np.frombuffer(stream, np.uint8))

    def pack(self, values: np.ndarray) -> np.ndarray:
        """Return integers [N] as bytes [N·k], the lowest byte first."""
        return values.astype("<u4").view(np.uint8).reshape(-1, 4)[:, : self.width].reshape(-1).copy()

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """Undo `pack`."""
        wide = np.zeros((len(packed) // self.width, 4), np.uint8)
        wide[:, : self.width] = packed.reshape(-1, self.width)
        return wide.view("<u4").reshape(-1).astype(np.uint32)
