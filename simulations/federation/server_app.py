"""The ServerApp of a real federation: SuperNodes, each with one user's data, and the record on the server's side."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from configs.load import parse_resolved
from simulations.federation.flwr_run import run_on
from simulations.run.new_record import new_record

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
    with new_record(config, f"run-{context.run_id}", results, False, [], real=True) as opened:
        run_on(opened.folder, grid, real=True)
