"""Config keys for what clients and server exchange, and what the server does with the average."""

from typing import Literal, Self

from pydantic import Field, model_validator

from configs.base import Group


class WireConfig(Group):
    """How messages are written. `raw` sends every tensor as it is, in an array of its own.

    Any codec sends the change since what the receiver has, all tensors in one array: `fp32`, `fp16`, `bf16`, `int8`,
    `int4`, `sign`, `drive`, `nonzero`, or with a share of the numbers `top-k 0.01` or `ternary 0.01`
    (strategies/codecs).
    """

    up: str = "raw"
    """From the clients."""
    down: str = "raw"
    """To the clients. With a codec a client gets the changes it has missed, or a copy if that is less; all clients know
    the initial values from the seed."""
    copy_as: Literal["fp32", "fp16", "bf16", "int8", "int4", "drive"] = "fp32"
    """How copies are written, for newcomers and for clients that missed rounds: `fp32` is exact, the others code the
    difference from the initial values. Retries and `start_from` always take exact ones."""
    down_of: Literal["changes", "values"] = "changes"
    """What the codec writes for clients. `values`: the tensors themselves, for all clients alike; what it leaves out is
    0 for them, as in FLASC (arXiv 2406.05233)."""
    feedback: bool = True
    """Clients add what their codec has left out (`top-k`, `ternary`, `sign`) to their next change."""
    error_decay: float = Field(1.0, ge=0, le=1)
    """What was left out is multiplied by this for every round in between."""

    @model_validator(mode="after")
    def _has_effect(self) -> "WireConfig":
        if self.down_of == "values" and self.down == "raw":
            raise ValueError("down_of='values' needs a codec for clients (down)")
        if self.copy_as != "fp32" and (self.down == "raw" or self.down_of == "values"):
            raise ValueError(f"copy_as='{self.copy_as}' needs a codec for changes (down)")
        if self.copy_as != "fp32" and self.up == "raw":
            # The server would take the copy's error for something that the client has learned.
            raise ValueError(f"copy_as='{self.copy_as}' needs clients that send changes (up)")
        if not (self.up.startswith(("top-k", "ternary")) or self.up == "sign"):
            for key, value in (("error_decay", self.error_decay), ("feedback", self.feedback)):
                if value != type(self).model_fields[key].default:
                    raise ValueError(f"{key}={value} needs up='top-k …', 'ternary …' or 'sign', not '{self.up}'")
        return self


ADAPTIVE = ("adam", "yogi")
"""Server optimisers whose steps hardly depend on the size of a change."""
LARGEST_ADAPTIVE_STEP = 0.1
"""The longest step of a number with them: shared tensors have entries well below 1."""


class ServerConfig(Group):
    """What the server does with the average of a round (FedOpt: Reddi et al., arXiv 2003.00295).

    The average minus the shared tensors, Δ, takes the place of a gradient.
    """

    optimizer: Literal["none", "momentum", "nesterov", "adam", "yogi"] = "none"
    """`none`: the average is the new value (FedAvg)."""
    lr: float = Field(1.0, gt=0)
    """Length of a step: of Δ for momentum, of each number for Adam and Yogi."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """β₁, that of Δ."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """β₂, that of Δ², for Adam and Yogi."""
    tau: float = Field(1e-3, gt=0)
    """Added to √v: steps are not longer than `lr` where Δ is much larger, and proportional to Δ where it is smaller."""

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        used = {"none": (), "momentum": ("lr", "momentum"), "nesterov": ("lr", "momentum")}
        for key in ("lr", "momentum", "beta2", "tau"):
            value = getattr(self, key)
            if key not in used.get(self.optimizer, (key,)) and value != type(self).model_fields[key].default:
                raise ValueError(f"{key}={value:g} has no effect with optimizer='{self.optimizer}'")
        if self.optimizer in ADAPTIVE and self.lr > LARGEST_ADAPTIVE_STEP:
            raise ValueError(
                f"lr={self.lr:g}: {self.optimizer} moves every number by about this much in a round; expected at most "
                f"{LARGEST_ADAPTIVE_STEP:g}, such as 0.01"
            )
        return self
