"""The Flower ServerApp: one run, from roll call to finished record."""

import traceback
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from configs.errors import RunFailed
from configs.paths import run_dir
from fl_server.record.schema import append_line, read_run, write_run
from fl_server.run import FederatedRun

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation whose record folder the run config names."""
    complete(run_dir(context.run_config, context.run_id), grid)


def complete(folder: Path, grid: Grid, real: bool = False) -> None:
    """Run the federation of a record, or what is left of it; the record says how it ended.

    Args:
        folder: The run record.
        grid: Flower's.
        real: The clients are real devices, each with its own user's data.
    """
    try:
        FederatedRun(folder, grid, real).complete()
    except Exception as error:
        record = read_run(folder)
        record.status = "failed"
        record.error = str(error) if isinstance(error, RunFailed) else "".join(traceback.format_exception(error))
        write_run(folder, record)
        append_line(folder / "events.jsonl", {"event": "failed", "error": record.error})
