"""Tables of every config key, from the schema's docstrings."""

import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from configs.base import Group
from configs.schema import RunConfig

_BOUNDS = {"Ge": ("ge", "≥"), "Gt": ("gt", ">"), "Le": ("le", "≤"), "Lt": ("lt", "<")}
_WORDS = {"int": "whole number", "float": "number", "str": "text", "bool": "true, false", "NoneType": "unset"}


def config_tables() -> str:
    """Return one Markdown table per group of keys, with each key's default, values and meaning."""
    parts = []
    for prefix, group in _groups(RunConfig, ""):
        title = f"## {prefix}" if prefix else "## The run"
        parts += [title, "", _first_paragraph(group), "", "| key | default | values | meaning |", "|---|---|---|---|"]
        for name, field in group.model_fields.items():
            if not _is_group(field.annotation):
                key = f"{prefix}.{name}" if prefix else name
                default = _code(field.get_default(call_default_factory=True))
                parts.append(f"| `{key}` | {default} | {_values(field)} | {_meaning(field)} |")
        parts.append("")
    return "\n".join(parts)


def _groups(group: type[Group], prefix: str) -> Iterator[tuple[str, type[Group]]]:
    yield prefix, group
    for name, field in group.model_fields.items():
        if _is_group(field.annotation):
            yield from _groups(typing.cast(type[Group], field.annotation), f"{prefix}.{name}" if prefix else name)


def _is_group(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Group)


def _first_paragraph(group: type[Group]) -> str:
    return " ".join((group.__doc__ or "").split("\n\n")[0].split())


def _code(value: Any) -> str:
    if value is None or value == "":
        return "unset"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`"


def _values(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for kind, (name, sign) in _BOUNDS.items()
        if type(item).__name__ == kind
    ]
    plain, unset, _ = _type(field.annotation).partition(" or unset")
    return " ".join([plain, ", ".join(bounds)]).strip() + (", or unset" if unset else "")


def _type(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(_code(value) for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(each) for each in inner)
    if origin is list:
        return f"list of {_type(inner[0])}s"
    if origin is dict or _is_group(annotation):
        return "table"
    return _WORDS.get(getattr(annotation, "__name__", ""), "value")


def _meaning(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    return re.sub(r"(?<!\\)\|", r"\\|", text)
