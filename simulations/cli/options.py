"""Options that several commands share, and functions that parse them."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from configs.errors import InputError
from configs.load import load_config
from configs.paths import expand
from configs.schema import RunConfig
from simulations.display.console import console
from simulations.display.tables import print_tables

ConfigArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.toml] [key=value]…", help="An experiment file, then dotted overrides."),
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[key=value]…", help="Dotted overrides.")]
Experiment = Annotated[Path | None, typer.Option("--config", help="An experiment file for all runs.")]
Seeds = Annotated[str, typer.Option(help="Comma-separated.")]
Results = Annotated[Path, typer.Option(help="The folder of run records.", callback=expand)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Track = Annotated[
    list[str] | None, typer.Option(help="tensorboard, wandb or mlflow; may be repeated; wandb is offline by default.")
]


def read_arguments(arguments: list[str] | None) -> tuple[RunConfig, Path | None]:
    """Return the config given by an experiment file and overrides, and the file's path.

    Raises:
        InputError: More than one file is given, or `load_config` refuses the config.
    """
    files = [argument for argument in arguments or [] if "=" not in argument]
    if len(files) > 1:
        raise InputError(f"expected at most one config file, got {' and '.join(files)}; a method's is method=FILE")
    toml = Path(files[0]) if files else None
    return load_config(toml, overrides_of(arguments)), toml


def overrides_of(arguments: list[str] | None) -> list[str]:
    """Return the arguments that are overrides: `key=value`."""
    return [argument for argument in arguments or [] if "=" in argument]


def read_list(text: str) -> list[str]:
    """Split a comma-separated list."""
    return [item.strip() for item in text.split(",") if item.strip()]


def read_numbers(field: str, text: str, or_all: bool = False, example: str = "0,1") -> list[int]:
    """Parse an option's whole numbers; with `or_all`, `all` is accepted and adds no number.

    Raises:
        InputError: The text holds anything else, or `all` twice.
    """
    given = read_list(text)
    if or_all and given.count("all") > 1:
        raise InputError("given twice", field=field, value="all")
    numbers = [item for item in given if not (or_all and item == "all")]
    if not all(re.fullmatch("-?[0-9]+", item) for item in numbers):  # int() also accepts 1_0
        expected = "whole numbers or all, such as 5,20,all" if or_all else f"whole numbers such as {example}"
        raise InputError(f"expected {expected}", field=field, value=text)
    return list(map(int, numbers))


def show(as_json: bool, content: Mapping[str, Any] | Sequence[Any], tables: Sequence[Table], *lines: str) -> None:
    """Print a result as tables and lines, or as JSON only."""
    if as_json:
        print(json.dumps(content, indent=1, ensure_ascii=False))
        return
    screen = console()
    print_tables(screen, tables)
    for line in lines:
        screen.print(line, soft_wrap=True)
