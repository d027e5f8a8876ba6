"""Config keys for who takes part."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.base import Group


class SyntheticConfig(Group):
    """How synthetic users are generated (the generative models are in fl_clients/lamp/synthetic/)."""

    history: int = Field(48, ge=0)
    """History items per user."""
    queries: int = Field(16, ge=1)
    """Held-out questions per user."""
    deviation: float = Field(1.0, ge=0)
    """Standard deviation of a user's personal preferences, in units of the collective ones' spread."""
    noise: float = Field(0.02, ge=0, lt=1)
    """Share of items with a noisy answer: another theme of the text, a rating off by one, one style slot changed."""


class UsersConfig(Group):
    """Which users take part."""

    collective: int = Field(32, ge=1)
    """Users who train the collective shift (stage 1)."""
    target: int = Field(16, ge=1)
    """Users who are personalised and evaluated (stage 2); unseen in stage 1."""
    reserved: int = Field(0, ge=0)
    """Users left out who would be targets, so that a search for settings does not see users evaluated later."""
    held_out: int = Field(0, ge=0)
    """Collective users, the last ones, who do not train: their questions judge the shared tensors, before stage 1, at
    every midway evaluation and at the end."""
    source: str = "synthetic"
    """`synthetic`, or a folder or file of LaMP data (official or OPPU/PerFit layout)."""
    select: Literal["random", "paper", "apart", "listed"] = "random"
    """How users are selected. `random`: by the seed; `paper`: the users with the longest histories are targets
    (synthetic histories are all equally long) and the collective users are drawn from the rest; `apart`: users are
    clustered by their answers, and no cluster has both targets, who are the most unusual, and collective users;
    `listed`: the first of `collective_ids` and `target_ids`."""
    collective_ids: list[str] = Field([])
    """User ids in order, for `select = "listed"`."""
    target_ids: list[str] = Field([])
    """User ids in order, for `select = "listed"`."""
    group: int = Field(0, ge=0)
    """Index of the disjoint group of `collective` users, in the order drawn by the seed; 0 is the first."""
    collective_history: int | None = Field(None, ge=1)
    """Collective users use only this many first items of their histories; None: all."""
    target_history: int | None = Field(None, ge=0)
    """Target users use only this many first items of their histories; None: all."""
    exchange_histories: bool = False
    """A control: every target user trains on the next target user's history. What stage 2 still gains is not
    personal."""
    canaries: bool = False
    """For audits: a made-up item is added to every target user's history and, by a coin, to a collective user's, once,
    4 or 16 times; `fedperfit audit` tells how well the models remember it."""
    overlap: bool = False
    """Target users may also be collective users, with their histories but never their questions."""
    synthetic: SyntheticConfig = SyntheticConfig()

    @field_validator("collective_ids", "target_ids", mode="before")
    @classmethod
    def _as_texts(cls, given: Any) -> Any:
        """Accept ids that a file gives as numbers."""
        return [str(item) if type(item) is int else item for item in given] if isinstance(given, list) else given

    @model_validator(mode="before")
    @classmethod
    def _count_listed(cls, given: Any) -> Any:
        """If users are listed without a count, all listed users take part."""
        if isinstance(given, dict) and given.get("select") == "listed":
            counts = {key: len(given[f"{key}_ids"]) for key in ("collective", "target") if given.get(f"{key}_ids")}
            return {**counts, **given}
        return given

    @model_validator(mode="after")
    def _lists_fit(self) -> "UsersConfig":
        if self.exchange_histories and self.target < 2:
            raise ValueError("exchange_histories needs at least two target users")
        if self.select == "apart" and self.overlap:
            raise ValueError("overlap=true makes collective users of targets, which select='apart' keeps apart")
        if self.select == "apart" and self.source == "synthetic" and (self.group or self.reserved):
            # They are drawn, and so clustered, anew for every number of users.
            raise ValueError("with select='apart', group and reserved need the users of a folder")
        if self.select == "listed" and (self.group or self.reserved):
            raise ValueError("group and reserved apply to drawn users, not to select='listed'")
        for key, ids, count in (
            ("collective", self.collective_ids, self.collective),
            ("target", self.target_ids, self.target),
        ):
            if bool(ids) != (self.select == "listed"):
                raise ValueError(f"{key}_ids must be given for select='listed', and only then")
            if len(set(ids)) != len(ids):
                raise ValueError(f"{key}_ids names a user twice")
            if ids and count > len(ids):
                raise ValueError(f"{key}={count} is more than the {len(ids)} users in {key}_ids")
        if not self.overlap and (both := set(self.collective_ids) & set(self.target_ids)):
            raise ValueError(f"user {min(both)!r} is in both lists; set overlap=true if this is intended")
        return self
