"""The ServerApp of a real federation: each SuperNode has one user's data, and the server keeps the run record."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from configs.load import parse_resolved
from simulations.federation.flwr_run import run_on
from simulations.run.new_record import new_record

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the config in Flower's run config, once there is one SuperNode per user.

    Raises:
        InputError: The config is invalid, or the record cannot be created.
        RunFailed: The run did not complete; the record says why.
    """
    config = parse_resolved(str(context.run_config["config"]))
    results = Path(str(context.run_config["results"]))
    with new_record(config, f"run-{context.run_id}", results, False, [], real=True) as record:
        run_on(record.folder, grid, _registered(Path(str(context.run_config["keys"]))))


def _registered(keys: Path) -> dict[int, int]:
    """Return the partition of each node id, from what `run.sh` noted when it registered the devices' keys."""
    notes = {int(path.name.split(".")[0]): path.read_text() for path in keys.glob("*.pub.registered")}
    return {int(node): partition for partition, node in notes.items()}
