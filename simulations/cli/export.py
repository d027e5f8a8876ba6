"""`fedperfit export` and `chat`: the model a run serves, elsewhere and here."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from simulations.cli.options import Json, Results
from simulations.display.console import console
from simulations.run.catalogue import find_run

_Run = Annotated[str, typer.Argument(metavar="RUN", help="As `fedperfit runs` lists it.")]
_User = Annotated[str | None, typer.Option(help="A target user's id; default: the collective part alone.")]


def export(
    name: _Run,
    chosen: Annotated[str, typer.Option("--format", help="peft, pyreft or safetensors.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    user: _User = None,
    results: Results = Path("results"),
) -> None:
    """Write a run's model, for one user or the collective part, as files other tools load, with a model card.

    Example: `fedperfit export demo --user s0 --format safetensors --out exported`
    """
    from simulations.exports.export import export as write_export

    written = write_export(find_run(results, name).folder, user, chosen, out)
    console().print(f"{written} ({', '.join(sorted(path.name for path in written.iterdir()))})", soft_wrap=True)


def chat(
    name: _Run,
    prompt: Annotated[str | None, typer.Option(help="One text; default: a line of standard input each.")] = None,
    user: _User = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Answer texts as base, collective and personalised model side by side.

    What is written is put into the task's own prompt.

    Example: `fedperfit chat demo --user s0 --prompt "A heist goes wrong."`
    """
    from simulations.exports.chat import Chat
    from simulations.exports.served import load_served_model

    model = Chat(load_served_model(find_run(results, name).folder, user))
    screen = console()
    if prompt is None and sys.stdin.isatty():
        screen.print("a text a line; an empty line ends")
    for line in [prompt] if prompt is not None else sys.stdin:
        if prompt is None and not line.strip():
            break
        answers = model.answer(line.strip())
        if as_json:
            print(json.dumps(answers, ensure_ascii=False), flush=True)
            continue
        table = Table(*answers, title=line.strip())
        table.add_row(*answers.values())
        screen.print(table)
