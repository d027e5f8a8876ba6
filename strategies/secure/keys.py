"""Key agreement, encryption between users, and shares of secrets: X25519, AES-GCM, HKDF and Shamir."""

import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares

SECRET_BYTES = 32
_NONCE_BYTES = 12
SEALED_BYTES = _NONCE_BYTES + 2 * 52 + 16
"""Two shares of a secret (`split`), encrypted by `seal`."""


@dataclass(frozen=True)
class KeyPair:
    """A Diffie-Hellman key pair on Curve25519, 32 bytes each."""

    private: bytes
    public: bytes


def new_key_pair() -> KeyPair:
    """Draw a key pair."""
    return key_pair_of(X25519PrivateKey.generate().private_bytes_raw())


def key_pair_of(private: bytes) -> KeyPair:
    """Return the pair of a private key."""
    key = X25519PrivateKey.from_private_bytes(private)
    return KeyPair(private, key.public_key().public_bytes_raw())


def new_secret() -> bytes:
    """Draw 32 random bytes."""
    return secrets.token_bytes(SECRET_BYTES)


def agree(private: bytes, public: bytes, purpose: str) -> bytes:
    """Return the 32 bytes that only the two owners of a private key know.

    Args:
        private: One's own private key.
        public: The other's public key.
        purpose: Different purposes give unrelated bytes.

    Raises:
        ValueError: The public key is invalid.
    """
    shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=None, info=purpose.encode()).derive(shared)


def is_valid(public: bytes) -> bool:
    """Whether two can agree on a secret with these 32 bytes; with a point of low order everybody would fail."""
    try:
        agree(new_secret(), public, "check")
    except ValueError:
        return False
    return True


def seal(key: bytes, text: bytes, context: str) -> bytes:
    """Encrypt and authenticate: a nonce of 12 bytes, the text, a tag of 16 bytes.

    Args:
        key: 32 bytes.
        text: What to encrypt.
        context: Who writes to whom in which round; `unseal` needs the same.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, text, context.encode())


def unseal(key: bytes, sealed: bytes, context: str) -> bytes:
    """Undo `seal`.

    Raises:
        ValueError: It was written with another key or context, or changed on the way.
    """
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context.encode())
    except InvalidTag:
        raise ValueError(f"what was encrypted for {context} was changed on the way") from None


def split(secret: bytes, threshold: int, users: int) -> list[bytes]:
    """Return Shamir shares of 32 bytes, 52 bytes each; fewer than `threshold` of them tell nothing."""
    return create_shares(secret, threshold, users)


def join(shares: list[bytes]) -> bytes:
    """Restore a secret from at least as many shares as its threshold.

    Raises:
        ValueError: They do not fit together, or are too few.
    """
    secret = combine_shares(shares)
    if len(secret) != SECRET_BYTES:
        raise ValueError("shares do not fit together")
    return secret
