"""The ServerApp of `flwr run .`, for users of Flower's own tools: the same clients, the same record."""

import shlex
import time
from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from configs.errors import InputError, RunFailed
from configs.load import CONFIGS, import_folders, load_config
from configs.paths import run_dir
from fl_server.app import complete
from fl_server.record.schema import read_run
from strategies.loading import IMPORTING

with IMPORTING:
    from simulations.run.new_record import new_record
    from simulations.run.simulate import finish

app = ServerApp()
_CONNECT_S = 10.0


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment file `config` of Flower's run config, with `overrides` as on the command line.

    Raises:
        InputError: An input is invalid, or the federation does not have one SuperNode per user.
        RunFailed: The run did not complete; the record says why.
    """
    overrides = shlex.split(str(context.run_config["overrides"]))
    toml = Path(str(context.run_config["config"]))
    # Flower runs a copy of the checkout in another folder.
    toml = toml if toml.is_file() else CONFIGS.parent / toml
    config = load_config(toml, overrides)
    users = config.users.collective + config.users.target
    deadline = time.monotonic() + _CONNECT_S
    # Flower may still be registering nodes.
    while (nodes := len(list(grid.get_node_ids()))) < users and time.monotonic() < deadline:
        time.sleep(0.2)
    if users != nodes:
        raise InputError(
            f"{users} users need {users} SuperNodes, but this federation has {nodes}: "
            f"flwr run . --federation-config 'num-supernodes={users}'"
        )
    folder = run_dir(context.run_config, context.run_id)
    with new_record(config, folder.name, folder.parent, False, import_folders(toml, overrides)):
        run_on(folder, grid)


def run_on(folder: Path, grid: Grid, registered: Mapping[int, int] | None = None) -> None:
    """Run a new record's federation in this ServerApp's process, and finish the record.

    Args:
        folder: The run record.
        grid: Flower's grid.
        registered: As in `fl_server.app.complete`.

    Raises:
        RunFailed: The run did not complete; the record says why.
    """
    complete(folder, grid, registered)
    record = read_run(folder)
    if record.status != "completed":
        raise RunFailed(record.error or record.status)
    finish(folder)
