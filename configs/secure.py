"""Config keys for secure aggregation."""

import math

from pydantic import Field, model_validator

from configs.base import Group

FEWEST = 3
"""Users whose sum may be read: of a sum of two, each knows the other's part."""


class SecureConfig(Group):
    """Secure aggregation: the server learns the sum of a round's updates and no single one (docs/privacy.md).

    After Bonawitz et al. (CCS 2017). A number is written as an integer; the sum of n such integers fits into `bytes`.
    """

    aggregation: bool = False
    """Clients mask their updates, so that only the sum can be read."""
    threshold: int | None = Field(None, ge=FEWEST)
    """Users whose help the server needs to read a sum; more than half of those who begin the round. Default: two thirds
    of them, rounded up, and at least three."""
    bytes: int = Field(3, ge=1, le=4)
    """Bytes a number; 4 has the size of plain tensors, 1 is int8 with the room that a sum needs."""
    limit: float = Field(1.0, gt=0, le=1e6)
    """A change beyond ±`limit` is cut to it; the range is divided into equal steps, the same for all users."""

    @model_validator(mode="after")
    def _has_effect(self) -> "SecureConfig":
        if not self.aggregation:
            changed = [key for key, field in type(self).model_fields.items() if getattr(self, key) != field.default]
            if changed:
                raise ValueError(f"{changed[0]} needs aggregation=true")
        return self

    def check_cohort(self, cohort: int, over_selection: float) -> None:
        """Refuse a cohort whose sum would reveal an update, or that is too small for the threshold.

        Args:
            cohort: Users whose updates are averaged.
            over_selection: How many more begin the round, as a share of the cohort.

        Raises:
            ValueError: Names the key.
        """
        threshold, begin = self.threshold, math.ceil(cohort * (1 + over_selection))
        if cohort < FEWEST:
            raise ValueError(
                f"cohort={cohort}: secure.aggregation needs at least {FEWEST} users, or the sum would reveal an update"
            )
        if threshold is not None and not begin / 2 < threshold <= cohort:
            raise ValueError(
                f"secure.threshold={threshold}: expected more than half of the {begin} users of a round, and not more "
                f"than cohort={cohort}"
            )
        if (needed := self.users_needed(begin)) > cohort:
            raise ValueError(
                f"devices.over_selection={over_selection:g}: {cohort} of {begin} updates are taken, and "
                f"secure.threshold needs {needed}"
            )

    def users_needed(self, users: int) -> int:
        """Return the threshold among the users that begin a round."""
        return self.threshold if self.threshold is not None else max(FEWEST, -(-2 * users // 3))
