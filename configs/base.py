"""Base class of every group of config keys: frozen, with unknown keys refused."""

from pydantic import BaseModel, ConfigDict


class Group(BaseModel):
    """A group of keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
