"""`fedperfit data`: fetches, generates and inspects LaMP users."""

import enum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from configs.errors import InputError
from configs.load import load_config
from fl_clients.lamp.fetch import ADDRESS, fetch_files
from fl_clients.lamp.readers import find_source, recognise_task
from fl_clients.lamp.tasks import find_task
from simulations.cli.options import Json, show
from simulations.display.console import console

data_app = typer.Typer(
    no_args_is_help=True,
    epilog="Example: `fedperfit data synth --task movie_tagging --users 9 --out nine-people`",
    help="LaMP users: fetch official ones, generate synthetic ones, inspect any.",
)


class Split(enum.Enum):
    """How LaMP's official files are split."""

    user = "user"
    time = "time"


_Task = Annotated[str, typer.Option(help="A task, for instance movie_tagging.")]


@data_app.command("synth")
def data_synth(
    task: _Task,
    users: Annotated[int, typer.Option(min=1, help="Number of users.")],
    out: Annotated[Path, typer.Option(help="The folder to write into.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed; more users with the same seed extend the same list.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key=value]…", help="history, queries, deviation, noise, as in users.synthetic."),
    ] = None,
) -> None:
    """Write synthetic users in the official LaMP format, together with the best reachable score.

    Example: `fedperfit data synth --task movie_tagging --users 40 --out people history=20`
    """
    from fl_clients.lamp.synthetic.generate import write_synthetic

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("expected a new or empty folder", field="out", value=out)
    chosen = load_config(None, [f"users.synthetic.{setting}" for setting in settings or []]).users.synthetic
    try:
        write_synthetic(find_task(task), users, seed, chosen, out)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", field="out", value=out) from None
    print(f"{users} users in {out}")


@data_app.command("inspect")
def data_inspect(
    path: Annotated[Path, typer.Argument(help="A folder of LaMP files, or an official questions file.")],
    task: Annotated[str | None, typer.Option(help="Their task; default: inferred from the first question.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Count tokens with this backbone's tokenizer.")] = None,
    as_json: Json = False,
) -> None:
    """Check LaMP files and summarise their content.

    Example: `fedperfit data inspect people`
    """
    from simulations.inspection.dataset import inspect_source, inspection_table

    known = recognise_task(path) if task is None else find_task(task)
    inspected = inspect_source(find_source(path, known), backbone)
    show(as_json, inspected, [inspection_table(inspected)])


@data_app.command("user")
def data_user(
    path: Annotated[Path, typer.Argument(help="A folder of LaMP files, or an official questions file.")],
    task: _Task,
    user: Annotated[str, typer.Option(help="The user's id in these files.")],
    partition: Annotated[int, typer.Option(min=0, help="This user's number in the federation.")],
    out: Annotated[Path, typer.Option(help="The folder to write; a SuperNode's `data` names it.")],
) -> None:
    """Write the folder that one user's device needs in a real federation.

    Example: `fedperfit data user people --task movie_tagging --user s3 --partition 3 --out device-3`
    """
    from fl_clients.lamp.user_table import OpenedUser, write_one_user

    for candidate in find_source(path, find_task(task)).users():
        if candidate.user_id == user:
            write_one_user(OpenedUser(user, candidate.history, candidate.queries), partition, task, out)
            print(f"{out}: {len(candidate.history)} items, {len(candidate.queries)} questions")
            return
    raise InputError(f"{path} has no such user", field="user", value=user)


@data_app.command("fetch")
def data_fetch(
    task: _Task,
    split: Annotated[
        Split, typer.Option(help="user: dev and train have different users; time: the same users, dev is later.")
    ],
    out: Annotated[Path | None, typer.Option(help="The folder to write into; default: lamp/TASK-SPLIT.")] = None,
    address: Annotated[str, typer.Option(help="Address of the LaMP server.")] = ADDRESS,
) -> None:
    """Download the official LaMP files; an interrupted download continues where it stopped.

    Example: `fedperfit data fetch --task movie_tagging --split user`
    """
    folder = out or Path("lamp") / f"{task}-{split.value}"
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console()) as progress:
        bars: dict[str, TaskID] = {}

        def report(name: str, done: int, total: int | None) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name)
            progress.update(bars[name], completed=done, total=total)

        try:
            files = fetch_files(find_task(task), split.value, folder, report, address)
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", field="out", value=folder) from None
    for file in files:
        print(file)
