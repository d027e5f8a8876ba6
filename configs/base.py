"""Base class of every group of config keys: frozen, with unknown keys refused."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Group(BaseModel):
    """A group of keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_switches(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `true` where a number is expected: pydantic would take it for 1."""
        held = value if isinstance(value, list) else [value]
        expected = str(cls.model_fields[info.field_name or ""].annotation)
        if any(isinstance(item, bool) for item in held) and "bool" not in expected and "Any" not in expected:
            raise ValueError("expected a number or a text, not true or false")
        return value
