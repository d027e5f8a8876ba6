"""`fedperfit runs`: which run records there are, one of them, and one that is still going on."""

import enum
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from configs.errors import InputError, nearest
from simulations.cli.options import Json, Results, show
from simulations.display.console import console
from simulations.display.progress import Follower
from simulations.display.tables import bytes_table, human_bytes, quality_table
from simulations.run.catalogue import find_run, find_runs
from strategies.metrics.statistics import LOWER_IS_BETTER

runs_app = typer.Typer(help="List run records, show one, follow one that goes on.", invoke_without_command=True)
_POLL_S = 0.5


class Status(enum.Enum):
    """How a run stands."""

    running = "running"
    interrupted = "interrupted"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"


class Sort(enum.Enum):
    """What the list is sorted by."""

    age = "age"
    name = "name"
    quality = "quality"
    bytes = "bytes"


@runs_app.callback()
def list_runs(
    context: typer.Context,
    status: Annotated[Status | None, typer.Option(help="Only those of a status.")] = None,
    method: Annotated[str | None, typer.Option(help="Only those of a method.")] = None,
    task: Annotated[str | None, typer.Option(help="Only those of a task.")] = None,
    sort: Annotated[Sort, typer.Option(help="Best, least or newest first.")] = Sort.age,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """List run records.

    Example: `fedperfit runs --method perfit --sort quality`
    """
    if context.invoked_subcommand:
        return
    wanted = {"status": status.value if status else None, "method": method, "task": task}
    rows = [run.summary() for run in find_runs(results, _pass_over)]
    for key, value in wanted.items():
        known = sorted({row[key] for row in rows})
        # No hit is an answer; a word that is nearly another is a slip.
        if value is not None and value not in known and key != "status" and (meant := nearest(value, known)):
            raise InputError(f"none of these runs{meant} (there are: {', '.join(known)})", field=key, value=value)
        rows = [row for row in rows if value in (None, row[key])]
    rows.sort(key=lambda row: _order(row, sort))
    show(as_json, rows, [_runs_table(rows)] if rows else [], *([] if rows else [f"no such run records in {results}"]))


@runs_app.command("show")
def show_run(
    name: Annotated[str, typer.Argument(help="As `fedperfit runs` lists it.")],
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Show one run: its quality, its bytes, and what went wrong if it did."""
    run = find_run(results, name)
    record = run.record
    if as_json:
        content = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
        print(json.dumps({**content, "status": run.status}, indent=1, ensure_ascii=False))
        return
    screen = console()
    hint = f"; `fedperfit simulate --resume {run.name}` goes on" if run.status == "interrupted" else ""
    error = f"; {record.error}" if record.error else ""
    screen.print(f"{run.folder}: {run.status}, {_ago(run.age_s)} ago{hint}{error}", soft_wrap=True)
    if record.status == "completed":
        screen.print(quality_table(record), bytes_table(record), sep="\n")
        screen.print(
            f"{record.wall_s:.0f} s; asked again {record.retries} times, taken up again {record.resumed} times"
        )


@runs_app.command("follow")
def follow_run(
    name: Annotated[str, typer.Argument(help="As `fedperfit runs` lists it.")], results: Results = Path("results")
) -> None:
    """Show the progress of a run that another terminal started, until it ends."""
    run = find_run(results, name)
    with Follower(console(), quiet=False) as follower:
        while True:
            status = find_run(results, name).status
            follower(run.folder)
            if status != "running":
                break
            time.sleep(_POLL_S)
    hint = f"; `fedperfit simulate --resume {name}` goes on" if status == "interrupted" else ""
    console().print(f"{name}: {status}{hint}", soft_wrap=True)


def _pass_over(why: str) -> None:
    print(f"passed over: {why.splitlines()[0]}", file=sys.stderr)


def _order(row: dict[str, Any], sort: Sort) -> tuple[Any, ...]:
    if sort is Sort.quality:
        quality = row["quality"]
        better = quality if row["metric"] in LOWER_IS_BETTER else -(quality or 0.0)
        # Accuracies and errors do not compare: each metric by itself.
        return (quality is None, row["metric"] or "", better)
    value = {Sort.age: row["age_s"], Sort.name: row["name"], Sort.bytes: row["bytes"]}[sort]
    return (value is None, value)


def _runs_table(rows: Iterable[dict[str, Any]]) -> Table:
    table = Table(caption="bytes: of the run's own messages; one with `start_from` had stage 1 from another")
    for title in ("name", "status", "method", "task", "seed", "quality", "bytes", "age"):
        # Other commands want the name as it is.
        right = title in ("seed", "quality", "bytes", "age")
        table.add_column(title, justify="right" if right else "left", overflow="fold", no_wrap=title == "name")
    for row in rows:
        quality = "" if row["quality"] is None else f"{row['metric']} {row['quality']:.3f}"
        total = "" if row["bytes"] is None else human_bytes(row["bytes"])
        age = _ago(row["age_s"])
        table.add_row(row["name"], row["status"], row["method"], row["task"], str(row["seed"]), quality, total, age)
    return table


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
