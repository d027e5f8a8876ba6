"""The ServerApp of a real federation: SuperNodes, each with one user's data, and the record on the server's side."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from configs.errors import RunFailed
from configs.load import parse_resolved
from fl_server.app import complete
from fl_server.records import read_run
from simulations.record import new_record
from simulations.simulation import finish

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the config that came with Flower's run config, once as many SuperNodes are there as it has users.

    Raises:
        InputError: Something is wrong with the config, or the record cannot be made.
        RunFailed: The run did not complete; the record says more.
    """
    config = parse_resolved(str(context.run_config["config"]))
    results = Path(str(context.run_config["results"]))
    with new_record(config, f"run-{context.run_id}", results, False, [], devices=True) as opened:
        complete(opened.folder, grid, devices=True)
        record = read_run(opened.folder)
        if record.status != "completed":
            raise RunFailed(record.error or record.status)
        finish(opened.folder)
