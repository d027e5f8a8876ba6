"""Every command's `--help` has an example that the command understands; the pages' tests run such commands."""

import re
import shlex
from collections.abc import Iterator

import click
import pytest
import typer

from simulations.cli.main import app
from tests.test_documents import ROOT


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


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_is_understood_and_its_files_are_shipped(name: str) -> None:
    for words in examples(COMMANDS[name]):
        arguments = words[len(name.split()) :]
        COMMANDS[name].make_context(name, list(arguments))
        for word in arguments:
            if word.endswith(".toml") and word.startswith("configs/"):
                assert (ROOT / word).is_file()
