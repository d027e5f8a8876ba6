"""`fedperfit runs`: lists run records, shows one, and follows one that is running."""

import enum
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from configs.errors import InputError, nearest
from fl_server.record.folder import RunFolder
from simulations.cli.options import Json, Results, show
from simulations.display.console import console
from simulations.display.output import printable
from simulations.display.progress import Follower
from simulations.display.tables import bytes_table, human_bytes, new_table, print_tables, quality_table
from simulations.display.users_table import users_table
from simulations.run.catalogue import find_run, find_runs
from strategies.metrics.statistics import LOWER_IS_BETTER

runs_app = typer.Typer(invoke_without_command=True)
_POLL_S = 0.5


class Status(enum.Enum):
    """A run's status."""

    running = "running"
    interrupted = "interrupted"
    completed = "completed"
    failed = "failed"
    cancelled = "cancelled"


class Sort(enum.Enum):
    """The order of the list."""

    age = "age"
    name = "name"
    quality = "quality"
    bytes = "bytes"


@runs_app.callback()
def list_runs(
    context: typer.Context,
    status: Annotated[Status | None, typer.Option(help="Only runs with this status.")] = None,
    method: Annotated[str | None, typer.Option(help="Only runs of this method.")] = None,
    task: Annotated[str | None, typer.Option(help="Only runs of this task.")] = None,
    sort: Annotated[Sort, typer.Option(help="Newest, best quality or fewest bytes first, or by name.")] = Sort.age,
    with_shipped: Annotated[bool, typer.Option("--all", help="Also the repository's own reference runs.")] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """List run records, show one, or follow a running one; in the list an experiment of several runs is one line.

    Example: `fedperfit runs --method perfit --sort quality`
    """
    if context.invoked_subcommand:
        return
    wanted = {"status": status.value if status else None, "method": method, "task": task}
    rows = [run.summary() for run in find_runs(results, _report_skipped, with_shipped)]
    for key, value in wanted.items():
        known = sorted({row[key] for row in rows})
        # An empty list is a valid answer, but a near miss of a known value is probably a typo.
        if value is not None and value not in known and key != "status" and (meant := nearest(value, known)):
            raise InputError(f"no such runs{meant} (known: {', '.join(known)})", field=key, value=value)
        rows = [row for row in rows if value in (None, row[key])]
    rows.sort(key=lambda row: _order(row, sort))
    # Qualities are compared run by run.
    lines = list(map(_line, rows)) if sort is Sort.quality else _fold(rows, sort)
    hint = "" if with_shipped else "; `--all` adds the repository's own"
    nothing = f"no matching run records in {results}{hint}"
    show(as_json, rows, [_runs_table(lines)] if rows else [], *([] if rows else [nothing]))


@runs_app.command("show")
def show_run(
    name: Annotated[str, typer.Argument(help="A name listed by `fedperfit runs`.")],
    users: Annotated[bool, typer.Option("--users", help="Also the target users: id, items, quality.")] = False,
    results: Results = Path("results"),
    as_json: Json = False,
) -> None:
    """Show one run: its status, quality and bytes, and its error if it failed.

    Example: `fedperfit runs show demo`
    """
    run = find_run(results, name)
    record = run.record
    if as_json:
        content = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
        print(json.dumps({**content, "status": run.status}, indent=1, ensure_ascii=False))
        return
    screen = console()
    hint = f"; `fedperfit simulate --resume {run.name}` resumes it" if run.status == "interrupted" else ""
    error = f"; {printable(record.error)}" if record.error else ""
    screen.print(f"{run.folder}: {run.status}, {_ago(run.age_s)} ago{hint}{error}", soft_wrap=True)
    if record.status == "completed":
        of_users = [users_table(RunFolder(run.folder), record)] if users else []
        print_tables(screen, [quality_table(record), bytes_table(record), *of_users])
        screen.print(f"{record.wall_s:.0f} s; retries: {record.retries}, resumes: {record.resumed}")


@runs_app.command("follow")
def follow_run(
    name: Annotated[str, typer.Argument(help="A name listed by `fedperfit runs`.")], results: Results = Path("results")
) -> None:
    """Show the progress of a run started in another terminal, until it ends.

    Example: `fedperfit runs follow demo`
    """
    run = find_run(results, name)
    with Follower(console(), quiet=False) as follower:
        while True:
            status = find_run(results, name).status
            follower(run.folder)
            if status != "running":
                break
            time.sleep(_POLL_S)
    hint = f"; `fedperfit simulate --resume {name}` resumes it" if status == "interrupted" else ""
    console().print(f"{name}: {status}{hint}", soft_wrap=True)


def _report_skipped(error: str) -> None:
    print(f"skipped: {printable(error.splitlines()[0])}", file=sys.stderr)


def _order(row: dict[str, Any], sort: Sort) -> tuple[Any, ...]:
    if sort is Sort.quality:
        quality = row["quality"]
        better = quality if row["metric"] in LOWER_IS_BETTER else -(quality or 0.0)
        # Accuracies and errors are not comparable, so metrics are sorted separately.
        return (quality is None, row["metric"] or "", better)
    value = {Sort.age: row["age_s"], Sort.name: row["name"], Sort.bytes: row["bytes"]}[sort]
    return (value is None, value)


def _fold(rows: list[dict[str, Any]], sort: Sort) -> list[dict[str, Any]]:
    """Return one line per experiment of several runs, and one per other run."""
    members: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        members.setdefault(row["experiment"] or row["name"], []).append(row)
    lines = [_experiment(name, entries) if len(entries) > 1 else _line(entries[0]) for name, entries in members.items()]
    return sorted(lines, key=lambda line: _order(line, sort))


def _line(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "seed": str(row["seed"])}


def _experiment(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    statuses = Counter(row["status"] for row in rows)
    return {
        "name": f"{name}/",
        "status": ", ".join(f"{count} {status}" for status, count in statuses.items()),
        **{key: ", ".join(dict.fromkeys(str(row[key]) for row in rows)) for key in ("method", "task")},
        "seed": ", ".join(map(str, sorted({row["seed"] for row in rows}))),
        "metric": None,
        "quality": None,
        "bytes": sum(row["bytes"] or 0 for row in rows),
        "age_s": min(row["age_s"] for row in rows),
    }


def _runs_table(lines: Iterable[dict[str, Any]]) -> Table:
    table = new_table(caption="bytes: this run's messages only; a run with `start_from` takes stage 1 from another run")
    for title in ("name", "status", "quality", "bytes", "age"):
        right = title in ("quality", "bytes", "age")
        table.add_column(title, justify="right" if right else "left", overflow="fold")
    for line in lines:
        quality = "" if line["quality"] is None else f"{line['metric']} {line['quality']:.3f}"
        total = "" if line["bytes"] is None else human_bytes(line["bytes"])
        # Other commands need the exact name, so it has a line of its own.
        what = f"{line['name']}\n  {line['method']}, {line['task']}, seed {line['seed']}"
        table.add_row(what, line["status"], quality, total, _ago(line["age_s"]))
    return table


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
