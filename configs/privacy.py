"""Config keys for user-level differential privacy of stage 1."""

import math
from typing import Literal

from pydantic import Field, model_validator

from configs.base import Group


class PrivacyConfig(Group):
    """User-level differential privacy of what stage 1 sends, for every method alike (docs/privacy.md).

    A user's update is what training changed, all tensors as one vector. It is clipped to norm C, all users count
    alike, and Gaussian noise is added.
    """

    kind: Literal["none", "central", "local"] = "none"
    """Who adds the noise: the server, to the sum of a round (`central`), or every client, to its own update (`local`).
    """
    clip: float = Field(1.0, gt=0)
    """C, the norm that updates are clipped to; with `clip_quantile`, that of the first round."""
    clip_quantile: float | None = Field(None, gt=0, lt=1)
    """C follows this quantile of the updates' norms, which is learned privately (Andrew et al., arXiv 1905.03871);
    0.5 is their choice. None: C stays."""
    noise_multiplier: float | None = Field(None, ge=0)
    """z: the noise of every number has the standard deviation z·C, on the sum or on an update. 0 only clips."""
    target_epsilon: float | None = Field(None, gt=0)
    """ε that must not be exceeded. Without a noise multiplier, the least that keeps to it in all rounds is used; with
    one, stage 1 ends before the round that would exceed it."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """δ, for which ε is stated; it must be below one over the number of collective users."""

    @model_validator(mode="after")
    def _is_stated(self) -> "PrivacyConfig":
        if self.kind == "none":
            changed = [key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default]
            if changed:
                raise ValueError(f"{changed[0]} needs kind, central or local")
            return self
        if self.noise_multiplier is None and self.target_epsilon is None:
            raise ValueError(f"kind='{self.kind}' needs noise_multiplier or target_epsilon")
        if self.noise_multiplier == 0 and self.target_epsilon is not None:
            raise ValueError("noise_multiplier=0 has no finite ε, so target_epsilon cannot be kept")
        if self.kind == "local" and self.clip_quantile is not None:
            raise ValueError("clip_quantile needs kind='central': no client knows the others' norms")
        return self

    def split(self, multiplier: float, cohort: int) -> tuple[float, float]:
        """Divide a round's privacy between the sum and the count of updates below C.

        σ_b, the deviation of the count, is n/20 as in the source, or z if that is more: the sum's noise then grows by
        16 % at most. z_Δ = (z⁻² − (2σ_b)⁻²)^(−1/2), so that both together cost what z costs.

        Args:
            multiplier: z.
            cohort: n, users a round.

        Returns:
            z_Δ and σ_b; z and 0 if C stays.
        """
        if self.clip_quantile is None or not multiplier:
            return multiplier, 0.0
        count = max(cohort / 20, multiplier)
        return 1 / math.sqrt(multiplier**-2 - (2 * count) ** -2), count
