"""Where a method's numbers go at a given size: which sites or modules, and what rank they leave room for.

A method's TOML lists what is tried, in `[search]`: `shapes`, tables of config keys, and `size`, the keys that make a
shape larger. Every shape gets the largest size with which no more numbers travel than allowed, and is then run like
any other setting, with the rates of the method's TOML.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import InputError
from configs.load import as_override, load_config, method_search
from fl_clients.backbone.load import read_shape
from simulations.run.preflight import build_method
from strategies.method import BackboneShape


@dataclass(frozen=True)
class FittedShape:
    """One shape at its largest size."""

    overrides: tuple[str, ...]
    """`key=value`."""
    shared: int
    """Numbers that travel, one way."""

    @property
    def name(self) -> str:
        """A name for folders and tables, such as `sites-6-spread-rank.shared-12`."""
        words = "-".join(self.overrides)
        return "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in words).strip("-")


def fitted_shapes(
    method: str, toml: Path | str | None, overrides: Sequence[str], size: int, import_path: Sequence[str] = ()
) -> list[FittedShape]:
    """Return a method's shapes, each as large as `size` allows, without those that do not fit at all.

    Args:
        method: A name in `configs/methods/`, or a TOML file.
        toml: The experiment file.
        overrides: `key=value`.
        size: The most numbers that may travel, one way.
        import_path: Folders to import the method from.

    Raises:
        InputError: The method lists no shapes, or none fits.
    """
    search = method_search(method)
    if not search:
        raise InputError(f"{method}: its TOML has no [search] with shapes and size", field="size", value=size)
    shape = read_shape(load_config(toml, [*overrides, f"method={method}"]).backbone)
    shapes, smallest = [], []
    for table in search["shapes"]:
        words = [f"{key}={as_override(value)}" for key, value in table.items()]

        def numbers(rank: int, words: list[str] = words) -> float:
            try:
                return _numbers(method, toml, [*overrides, *words, *_sized(search, rank)], shape, import_path)
            except InputError:
                if rank == 1:
                    raise
                return math.inf  # above what a module allows

        smallest.append(numbers(1))
        if smallest[-1] <= size:
            rank = _largest(numbers, size, shape.hidden)
            shapes.append(FittedShape((*words, *_sized(search, rank)), int(numbers(rank))))
    if not shapes:
        raise InputError(f"the smallest shape has {min(smallest):,} numbers", field="size", value=size)
    return shapes


def _sized(search: dict[str, Any], rank: int) -> list[str]:
    return [f"{key}={rank}" for key in search["size"]]


def _numbers(
    method: str, toml: Path | str | None, overrides: Sequence[str], shape: BackboneShape, import_path: Sequence[str]
) -> int:
    config = load_config(toml, [*overrides, f"method={method}"])
    return build_method(config, shape, import_path).shared_parameters(shape)


def _largest(numbers: Callable[[int], float], size: int, most: int) -> int:
    """Return the largest rank that fits; the numbers grow with it."""
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if numbers(middle) <= size else (low, middle - 1)
    return low
