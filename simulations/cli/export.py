"""`fedperfit export` and `chat`: use the model that a run serves."""

import io
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from simulations.cli.options import Json, Results
from simulations.display.console import console
from simulations.display.output import printable
from simulations.display.tables import new_table
from simulations.run.catalogue import find_run

_Run = Annotated[str, typer.Argument(metavar="RUN", help="A name listed by `fedperfit runs`.")]
_User = Annotated[str | None, typer.Option(help="A target user's id; default: the collective part only.")]


def export(
    name: _Run,
    chosen: Annotated[str, typer.Option("--format", help="peft, pyreft or safetensors.")],
    out: Annotated[Path, typer.Option(help="The folder to write; new or empty.")],
    user: _User = None,
    results: Results = Path("results"),
) -> None:
    """Export a run's model, for one user or the collective part only, as files for other tools, with a model card.

    Example: `fedperfit export demo --user s0 --format safetensors --out exported`
    """
    from simulations.exports.export import export as write_export

    written = write_export(find_run(results, name).folder, user, chosen, out)
    console().print(f"{written} ({', '.join(sorted(path.name for path in written.iterdir()))})", soft_wrap=True)


def chat(
    name: _Run,
    prompt: Annotated[str | None, typer.Option(help="One text; default: one text per line of standard input.")] = None,
    user: _User = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Answer texts with the base, collective and personalised model side by side.

    Each text is inserted into the task's prompt.

    Example: `fedperfit chat demo --user s0 --prompt "A heist goes wrong."`
    """
    from simulations.exports.chat import Chat
    from simulations.run.served import load_served_model

    model = Chat(load_served_model(find_run(results, name).folder, user))
    screen = console()
    if prompt is None and sys.stdin.isatty():
        screen.print("one text per line; an empty line ends")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # such a line is refused by name
    for line in [prompt] if prompt is not None else sys.stdin:
        if prompt is None and not line.strip():
            break
        answers = model.answer(line.strip())
        if as_json:
            print(json.dumps(answers, ensure_ascii=False), flush=True)
            continue
        table = new_table(*answers, title=printable(line.strip()))
        table.add_row(*map(printable, answers.values()))
        screen.print(table)
