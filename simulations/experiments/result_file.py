"""The JSON file that holds what an experiment found: how it is written and read."""

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from configs.errors import InputError


class Part(BaseModel):
    """A part of a results file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class ResultFile(Part):
    """A whole file; its key `schema` is the version of its layout."""

    model_config = ConfigDict(populate_by_name=True)

    def to_json(self) -> str:
        """Return the text of the file."""
        return self.model_dump_json(indent=1, by_alias=True) + "\n"


Report = TypeVar("Report", bound=ResultFile)


def read_report(path: Path, model: type[Report], schema: int, command: str) -> Report:
    """Read `compare.json` or `cold_start.json`.

    Args:
        path: The file.
        model: Its content.
        schema: The version that can be read.
        command: The command that writes it.

    Raises:
        InputError: It is missing, not JSON, of another version, or lacks a key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("schema")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not readable: {type(error).__name__}: {error}") from None
    if version != schema:
        raise InputError(f"{path}: schema {version}, expected {schema}; the same `fedperfit {command}` rewrites it")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            raise InputError(f"{path}: {key!r} is missing") from None
        raise InputError(f"{path}: {key}: {problem['msg'][0].lower()}{problem['msg'][1:]}") from None
