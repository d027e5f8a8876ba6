"""The example in every command's `--help` runs as it stands, at a small scale."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from simulations.cli.main import app
from tests.test_documents import PAGES, run
from tests.test_documents import checkout as checkout
from tests.test_documents import commands as commands_of_page

pytestmark = pytest.mark.integration


def commands(found: click.Command, name: str = "fedperfit") -> Iterator[tuple[str, click.Command]]:
    """Yield every command and group of commands by its full name."""
    yield name, found
    subcommands = found.commands if isinstance(found, click.Group) else {}
    for key, value in subcommands.items():
        yield from commands(value, f"{name} {key}")


def examples(command: click.Command) -> list[list[str]]:
    """Return the commands quoted after the word Example."""
    shown = f"{command.help or ''} {command.epilog or ''}"
    text = " ".join(shown.partition("Example:")[2].split())
    return [shlex.split(quoted) for quoted in re.findall("`([^`]+)`", text)]


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_of_itself(name: str) -> None:
    found = examples(COMMANDS[name])
    assert found, f"{name}: no example in its help"
    for words in found:
        assert shlex.join(words).startswith(name)


def test_the_examples_run(checkout: Path) -> None:
    help_page = Path("--help")
    # The tests of the pages run these.
    on_a_page = [words[1:] for page in PAGES for words in commands_of_page(page)]
    # What the examples take for granted: a run called demo and a comparison.
    run(["simulate", "configs/experiments/demo.toml", "--name", "demo"], help_page)
    run(["compare", "perfit", "--name", "comparison"], help_page)
    first = ["fedperfit data synth"]
    for name in [*first, *(name for name in COMMANDS if name not in first)]:
        if name == "fedperfit data fetch":
            continue  # needs LaMP's server; tests/fl_clients/lamp/test_fetch.py uses a local one
        for _, *words in examples(COMMANDS[name]):
            if words not in on_a_page and words[0] != "bench":  # docs/speed.md runs it
                run(words, help_page)
