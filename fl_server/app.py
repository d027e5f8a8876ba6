"""The Flower ServerApp: one run, from the roll call to the finished record."""

import traceback
from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from configs.errors import InputError, RunFailed
from configs.files import append_line
from configs.paths import run_dir
from fl_server.record.schema import read_run, write_run
from fl_server.run import FederatedRun

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation of the record folder given in the run config."""
    complete(run_dir(context.run_config, context.run_id), grid)


def complete(folder: Path, grid: Grid, registered: Mapping[int, int] | None = None) -> None:
    """Run or resume the federation of a record; if it fails, the error is written to the record.

    Args:
        folder: The run record.
        grid: Flower's grid.
        registered: If the clients are real devices, each with one user's data: the partition that belongs to each
            device's key, by node id. Empty if nobody registered the keys with `run.sh`.
    """
    try:
        FederatedRun(folder, grid, registered).complete()
    except Exception as error:
        record = read_run(folder)
        record.status = "failed"
        explained = isinstance(error, RunFailed | InputError | OSError)
        record.error = str(error) if explained else "".join(traceback.format_exception(error))
        write_run(folder, record)
        append_line(folder / "events.jsonl", {"event": "failed", "error": record.error})
