"""Config keys for local training, in stage 1 (`local`) and stage 2 (`personal`)."""

from typing import Literal

from pydantic import Field, model_validator

from configs.base import Group


class FitConfig(Group):
    """Local training with linear warm-up and linear decay."""

    epochs: int = Field(1, ge=1)
    """Passes over the client's examples."""
    batch_size: int = Field(16, ge=1)
    """Examples per optimiser step."""
    lr: float = Field(5e-3, gt=0)
    """Peak learning rate."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """`sgd` has `momentum`; its steps shrink with the gradient, so that a server optimiser can set their length."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay, or SGD's."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of the schedule during which the learning rate rises linearly from 0."""
    clip: float = Field(1.0, gt=0)
    """Maximum gradient norm."""
    visit_warmup: float = Field(0.0, ge=0, le=1)
    """Share of one training's own steps during which the learning rate also rises linearly from 0: the optimiser
    begins anew in every round, and its first steps are as long as any other."""
    proximal: float = Field(0.0, ge=0)
    """FedProx's µ: adds µ/2 · ‖p − p₀‖² to the loss, p₀ being the parameters at the beginning of the training."""
    keep_moments: bool = False
    """AdamW's second moments stay on the client and are used again in its next round."""
    held_out: float = Field(0.0, ge=0, lt=1)
    """Early stopping: share of the client's examples, at least one, that are not trained on. The parameters of the
    epoch with the lowest loss on them are kept, or those of the beginning."""
    max_tokens: int = Field(512, ge=8)
    """Maximum tokens per example. A longer prompt is cut in the middle, to no fewer than 2; the answer is never cut,
    and an item whose answer leaves less room is not trained on."""

    @model_validator(mode="after")
    def _has_moments(self) -> "FitConfig":
        if self.keep_moments and self.optimizer != "adamw":
            raise ValueError(f"keep_moments=true needs optimizer='adamw', not '{self.optimizer}'")
        return self


class PersonalConfig(FitConfig):
    """Training in stage 2: more epochs, since a client does it once."""

    epochs: int = Field(6, ge=1)
    """Passes over the target user's history."""
