"""What a sweep varies: keys and their values, from the command line or a config's `[sweep]` table."""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from configs.errors import InputError, nearest
from configs.explain import known_keys
from configs.load import as_override, read_toml
from configs.schema import RunConfig

MOST = 200
"""Runs of a sweep that are not asked about."""
_ARGUMENTS = {"method": "methods", "seed": "seeds"}
"""Keys that a sweep takes as options."""


@dataclass(frozen=True)
class SweepSpec:
    """A grid of settings."""

    axes: dict[str, list[str]]
    """Values of each key, as typed; the grid has every combination."""
    methods: list[str]
    seeds: list[int]
    yes: bool = False
    """More than `MOST` runs are meant."""

    def points(self) -> list[dict[str, str]]:
        """Return every combination, the last key's values changing fastest.

        Raises:
            InputError: There is no key, a key is unknown or a group, a value is given twice, or the grid is too large.
        """
        if not self.axes:
            raise InputError("expected at least one key with several values, such as rank.shared=1,4,12")
        for key, values in self.axes.items():
            _check_key(key)
            for value in values:
                if values.count(value) > 1:
                    raise InputError(f"{key}: {value} is given twice")
        count = math.prod(map(len, self.axes.values())) * len(self.methods) * len(self.seeds)
        if count > MOST and not self.yes:
            raise InputError(f"{count} runs: give --yes if that is meant, or fewer values, methods or seeds")
        return [dict(zip(self.axes, chosen, strict=True)) for chosen in product(*self.axes.values())]


def read_axes(arguments: Sequence[str], toml: Path | None) -> tuple[dict[str, list[str]], list[str]]:
    """Split arguments into axes, `key=a,b`, and overrides with a single value; a config's `[sweep]` table adds axes.

    Commas inside brackets and quotes do not separate values: `sites=[14,15],[10]` has two.

    Raises:
        InputError: The table is malformed, or an argument is not `key=value`.
    """
    axes = {key: [as_override(value) for value in values] for key, values in _table(toml).items()}
    overrides = []
    for argument in arguments:
        key, equals, text = (part.strip() for part in argument.partition("="))
        if not equals or not key:
            raise InputError(f"'{argument}': expected key=value, or key=value,value for a key that varies")
        values = _split(text)
        if len(values) > 1:
            axes[key] = values
        else:
            axes.pop(key, None)
            overrides.append(argument)
    return axes, overrides


def slugs(points: Sequence[dict[str, str]]) -> list[str]:
    """Return each point as part of a folder's name, such as `rank.shared-4`; different points have different ones."""
    names = ["-".join(f"{key}-{_slug(value)}" for key, value in point.items()) for point in points]
    return [
        f"{name}-{hashlib.sha256(repr(point).encode()).hexdigest()[:6]}" if names.count(name) > 1 else name
        for name, point in zip(names, points, strict=True)
    ]


def _slug(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", ".", value).strip(".")


def _table(toml: Path | None) -> dict[str, list[Any]]:
    table = read_toml(toml).get("sweep", {}) if toml else {}
    if not isinstance(table, dict):
        raise InputError(f"{toml}: [sweep]: expected a table of keys")
    for key, values in table.items():
        if not isinstance(values, list) or len(values) < 2:
            raise InputError(f'{toml}: [sweep] {key}: expected at least two values, as in "rank.shared" = [1, 4]')
    return table


def _check_key(key: str) -> None:
    known = known_keys(RunConfig)
    if key in _ARGUMENTS:
        raise InputError(f"{key}: a sweep takes --{_ARGUMENTS[key]}")
    groups = {name.rpartition(".")[0] for name in known}
    if key in groups:
        inside = [name for name in known if name.rpartition(".")[0] == key]
        raise InputError(f"{key}: this is a group of keys ({', '.join(inside)}); vary one of them")
    if key not in known and not key.startswith("settings."):
        raise InputError(f"unknown key '{key}'{nearest(key, known)}")


def _split(text: str) -> list[str]:
    """Split at commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        quote = ("" if letter == quote else quote) if quote else letter if letter in "\"'" else ""
        depth += (letter in "[{") - (letter in "]}") if not quote else 0
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
