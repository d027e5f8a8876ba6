"""Low-rank adapters (LoRA): what every method built on them shares.

`from strategies import lora` gives a method settings, starts and a client's plain turn (`common`); `adapters` puts the
trainable factors on a model, `merging` adds averaged products to the frozen weights.
"""

from strategies.lora.common import (
    COLLECTIVE,
    KEPT,
    PERSONAL,
    PRIVATE,
    SHARED,
    LoraSettings,
    attach,
    block_of,
    first_a,
    parameters,
    start,
    train_personal,
    train_shared,
)

__all__ = [
    "COLLECTIVE",
    "KEPT",
    "PERSONAL",
    "PRIVATE",
    "SHARED",
    "LoraSettings",
    "attach",
    "block_of",
    "first_a",
    "parameters",
    "start",
    "train_personal",
    "train_shared",
]
