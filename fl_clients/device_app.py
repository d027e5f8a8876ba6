"""The ClientApp for real devices: every task has a time limit, and what goes wrong is told on the device only."""

from collections.abc import Iterator
from pathlib import Path

from flwr.app import Context

from configs.load import parse_resolved
from fl_clients.app import app
from fl_clients.process.device_errors import kept_on_device
from fl_clients.process.time_limit import limited_to

__all__ = ["app"]


@app.lifespan()
def limited(context: Context) -> Iterator[None]:
    """End this process if the task exceeds `faults.client_seconds`; by then the server has stopped waiting."""
    with kept_on_device(Path(str(context.node_config.get("store", ".")))):
        seconds = parse_resolved(str(context.run_config["config"])).faults.client_seconds
        with limited_to(seconds):
            yield
