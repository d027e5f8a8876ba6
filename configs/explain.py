"""One sentence for what is wrong with a config."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from configs.errors import nearest
from configs.schema import RunConfig

_BLOCKS = "a list of blocks such as [1, 2], 'every 4' or '6 spread'"
_RANKS = "a whole number, or a list of them, one for each site"
_EITHER = {"sites": _BLOCKS, "private_sites": _BLOCKS, "rank.shared": _RANKS, "rank.private": _RANKS}
"""What is expected where a key takes values of several types."""


def first_problem(error: ValidationError) -> Any:
    """Return the first problem that pydantic found, unknown keys first."""
    problems = error.errors(include_url=False)
    return next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])


def source_of(problem: Any, files: Sequence[tuple[str, dict[str, Any]]], typed: set[str]) -> str:
    """Return `"file: "` for the file that a key with a problem is in, `""` if it, or a part of it, was typed."""
    key = ".".join(map(str, problem["loc"]))
    if not key or any(name == key or name.startswith(f"{key}.") for name in typed):
        return ""
    for name, table in files:
        inside: Any = table
        for part in problem["loc"]:
            inside = inside.get(part) if isinstance(inside, dict) else None
        if inside is not None:
            return f"{name}: "
    return ""


def explain(error: ValidationError) -> str:
    """Return one sentence for the first problem."""
    problem = first_problem(error)
    key = ".".join(str(part) for part in problem["loc"])
    for either, expected in _EITHER.items():
        # For a value of several types pydantic names the first type in the key.
        if key.startswith(f"{either}."):
            return f"{either}={problem['input']!r}: expected {expected}"
    if problem["type"] == "extra_forbidden":
        known = known_keys(RunConfig)
        return f"unknown key '{key}'{nearest(key, known)}"
    if problem["type"] == "model_type":
        inside = [known for known in known_keys(RunConfig) if known.rpartition(".")[0] == key]
        return f"{key}={problem['input']!r}: expected a group of keys ({', '.join(inside)})"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        # A group's own check begins with the key inside the group.
        names_key = f"{key}.{re.split('[^a-z0-9_]', message)[0]}" in known_keys(RunConfig)
        return f"{key}.{message}" if names_key else f"{key}: {message}" if key else message
    return f"{key}={problem['input']!r}: {message[0].lower()}{message[1:]}"


def known_keys(group: type[BaseModel], prefix: str = "") -> list[str]:
    """List every dotted key of a config group."""
    keys: list[str] = []
    for name, field in group.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += [prefix + name, *known_keys(inner, f"{prefix}{name}.")]
        else:
            keys.append(prefix + name)
    return keys
