"""`fedperfit runs`: which run records there are, one of them, and one that is still going on."""

import enum
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from configs.errors import InputError, nearest
from fl_server.records import RunRecord, read_run
from simulations.comparison import main_metric
from simulations.progress import Follower, console
from simulations.tables import bytes_table, human_bytes, quality_table
from strategies.metrics import LOWER_IS_BETTER

runs_app = typer.Typer(help="List run records, show one, follow one that goes on.", invoke_without_command=True)
_Results = Annotated[Path, typer.Option(help="Where the run records are.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_POLL_S = 0.5


class Sort(enum.Enum):
    """What the list is sorted by."""

    age = "age"
    name = "name"
    quality = "quality"
    bytes = "bytes"


@dataclass(frozen=True)
class Found:
    """A run record in a folder of results."""

    name: str
    """As `--resume` and the other commands take it: the path below the results."""
    folder: Path
    record: RunRecord
    age_s: float
    """Since anything was written to it."""

    def summary(self) -> dict[str, Any]:
        """Return what the list shows."""
        record = self.record
        done = record.status == "completed" and bool(record.metrics)
        metric = main_metric(record) if done else None
        return {
            "name": self.name,
            "status": record.status,
            "method": record.method,
            "task": record.task,
            "seed": record.seed,
            "metric": metric,
            "quality": record.metrics[metric] if metric else None,
            "bytes": record.bytes.total if done else None,
            "age_s": round(self.age_s, 1),
        }


def find_runs(results: Path) -> list[Found]:
    """Return the run records in a folder, those in folders of comparisons too; what is none is passed over."""
    found = []
    for path in sorted([*results.glob("*/run.json"), *results.glob("*/*/run.json")]):
        try:
            record = read_run(path.parent)
        except InputError:
            continue
        newest = max(each.stat().st_mtime for each in path.parent.iterdir())
        name = path.parent.relative_to(results).as_posix()
        found.append(Found(name, path.parent, record, max(0.0, time.time() - newest)))
    return found


def find_run(results: Path, name: str) -> Found:
    """Return one run record by its name.

    Raises:
        InputError: There is none; the nearest is named.
    """
    runs = find_runs(results)
    for run in runs:
        if run.name == name:
            return run
    raise InputError(f"{name}: no run record of that name in {results}{nearest(name, [run.name for run in runs])}")


@runs_app.callback()
def list_runs(
    context: typer.Context,
    status: Annotated[str | None, typer.Option(help="Only running, completed, failed or cancelled ones.")] = None,
    method: Annotated[str | None, typer.Option(help="Only those of a method.")] = None,
    task: Annotated[str | None, typer.Option(help="Only those of a task.")] = None,
    sort: Annotated[Sort, typer.Option(help="Best, least or newest first.")] = Sort.age,
    results: _Results = Path("results"),
    as_json: _Json = False,
) -> None:
    """List run records.

    Example: `fedperfit runs --method perfit --sort quality`
    """
    if context.invoked_subcommand:
        return
    wanted = {"status": status, "method": method, "task": task}
    rows = [run.summary() for run in find_runs(results)]
    for key, value in wanted.items():
        known = sorted({row[key] for row in rows})
        if value is not None and value not in known:
            raise InputError(
                f"--{key} {value}: none of these runs{nearest(value, known)} (there are: {', '.join(known)})"
            )
        rows = [row for row in rows if value in (None, row[key])]
    rows.sort(key=lambda row: _order(row, sort))
    if as_json:
        print(json.dumps(rows, indent=1))
    elif rows:
        console().print(_runs_table(rows))
    else:
        console().print(f"no run records in {results}")


@runs_app.command("show")
def show_run(
    name: Annotated[str, typer.Argument(help="As `fedperfit runs` lists it.")],
    results: _Results = Path("results"),
    as_json: _Json = False,
) -> None:
    """Show one run: its quality, its bytes, and what went wrong if it did."""
    run = find_run(results, name)
    record = run.record
    if as_json:
        print((run.folder / "run.json").read_text(encoding="utf-8"), end="")
        return
    screen = console()
    screen.print(
        f"{run.folder}: {record.status}, {_ago(run.age_s)} ago" + (f"; {record.error}" if record.error else "")
    )
    if record.status == "completed":
        screen.print(quality_table(record), bytes_table(record), sep="\n")
        screen.print(
            f"{record.wall_s:.0f} s; asked again {record.retries} times, taken up again {record.resumed} times"
        )


@runs_app.command("follow")
def follow_run(
    name: Annotated[str, typer.Argument(help="As `fedperfit runs` lists it.")], results: _Results = Path("results")
) -> None:
    """Show the progress of a run that another terminal started, until it ends."""
    run = find_run(results, name)
    with Follower(console(), quiet=False) as follower:
        while True:
            status = read_run(run.folder).status
            follower(run.folder)
            if status != "running":
                break
            time.sleep(_POLL_S)
    console().print(f"{name}: {status}")


def _order(row: dict[str, Any], sort: Sort) -> tuple[Any, ...]:
    if sort is Sort.quality:
        quality = row["quality"]
        better = quality if row["metric"] in LOWER_IS_BETTER else -(quality or 0.0)
        # Accuracies and errors do not compare: each metric by itself.
        return (quality is None, row["metric"] or "", better)
    value = {Sort.age: row["age_s"], Sort.name: row["name"], Sort.bytes: row["bytes"]}[sort]
    return (value is None, value)


def _runs_table(rows: Iterable[dict[str, Any]]) -> Table:
    table = Table()
    for title in ("name", "status", "method", "task", "seed", "quality", "bytes", "age"):
        table.add_column(title, justify="right" if title in ("seed", "quality", "bytes", "age") else "left")
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
