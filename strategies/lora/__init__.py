"""Low-rank adapters (LoRA): the code that all methods built on them share.

`from strategies import lora` provides settings, initial factors and plain local training (`common`); `adapters`
attaches the trainable factors to a model, `merging` adds averaged products to the frozen weights.
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
