"""A user's text, such as a profile, as what a prompting method attaches instead of an adapter."""

from contextlib import AbstractContextManager, nullcontext

import torch

from strategies.method import Tensors

PROFILE = "private_profile"
"""Name of the tensor that holds a text's bytes in the client's private store."""


class Notes:
    """No adapter: the backbone acts unchanged. Holds the text that prompts begin with."""

    # Prompts differ by user and question, so that nothing would be computed twice.
    frozen_blocks = 0
    suffix: int | None = None

    def __init__(self) -> None:
        """Start without a text."""
        self.text = ""

    def active(self, _prompt: torch.Tensor) -> AbstractContextManager[None]:
        """Change nothing."""
        return nullcontext()

    def train(self, mode: bool = True, /) -> None:
        """Change nothing."""


def pack_text(text: str) -> Tensors:
    """Return a text as a private tensor, UTF-8 bytes [n]; nothing for an empty text."""
    content = bytearray(text.encode())
    return {PROFILE: torch.frombuffer(content, dtype=torch.uint8)} if content else {}


def unpack_text(private: Tensors | None) -> str:
    """Return the text of `pack_text`, "" if there is none."""
    packed = (private or {}).get(PROFILE)
    return "" if packed is None else bytes(packed.tolist()).decode()
