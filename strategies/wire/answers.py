"""A client's answers in plain values, validated when created and when received."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

_Count = Annotated[int, Field(ge=0, lt=2**31)]
"""Fits the records' 32-bit columns."""


class _PlainValues(BaseModel):
    """Plain values of a message, validated when created and when received."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    def to_record(self) -> dict[str, Any]:
        """Return the values for a message; None values are left out."""
        return self.model_dump(exclude_none=True)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read the values of a message.

        Raises:
            ValueError: A value is missing, unknown, of the wrong type or out of bounds; the first is named.
        """
        try:
            return cls.model_validate(dict(record))
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            if not problem["loc"]:  # of several values
                raise ValueError(str(problem["ctx"]["error"])) from None
            key, message = ".".join(map(str, problem["loc"])), problem["msg"]
            if problem["type"] == "missing":
                raise ValueError(f"{key} is missing") from None
            raise ValueError(f"{key}={problem['input']!r}: {message[0].lower()}{message[1:]}") from None


class ClientReport(_PlainValues):
    """A client's report on a completed task."""

    examples: _Count
    """Examples trained on, or questions answered."""
    steps: _Count
    """Optimiser steps."""
    status: Literal["ok", "no_history"] = "ok"
    """`no_history`: the user has nothing to personalise on."""
    examples_cut: _Count | None = None
    """Examples that were cut to fit."""
    questions_cut: _Count | None = None
    """Questions that were cut to fit."""
    loss_first: float | None = None
    """Mean loss of the first step, nats per answer token."""
    loss_last: float | None = None
    """Mean loss of the last step, nats per answer token."""
    figure_names: list[str] | None = None
    """Names of the method's own figures."""
    figure_values: list[float] | None = None
    """Their values."""
    wall_s: float
    """Seconds the task took."""
    ended_at: float
    """End time, seconds since 1970."""
    partition_name: str
    """The slice of a machine that the task ran on."""
    peak_memory_bytes: Annotated[int, Field(ge=0, lt=2**63)]

    @model_validator(mode="after")
    def _check_figures(self) -> Self:
        if len(self.figure_names or []) != len(self.figure_values or []):
            raise ValueError("figure_values: expected one for each of figure_names")
        return self


class RollCallAnswer(_PlainValues):
    """A client's answer when the run begins."""

    partition: _Count
    """Partition id of the client's user."""
    history: _Count
    """History items of that user."""
    queries: _Count
    """Questions of that user."""
    versions: str | None = None
    """Package versions as JSON; only real devices send them."""
