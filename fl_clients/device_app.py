"""The ClientApp as a real device runs it: no task works for ever."""

import faulthandler
from collections.abc import Iterator

from flwr.app import Context

from configs.load import parse_resolved
from fl_clients.app import app

__all__ = ["app"]


@app.lifespan()
def limited(context: Context) -> Iterator[None]:
    """End this process if the task exceeds `faults.client_seconds`; the server has stopped waiting then."""
    seconds = parse_resolved(str(context.run_config["config"])).faults.client_seconds
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
