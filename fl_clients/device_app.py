"""The ClientApp for real devices: every task has a time limit, and what goes wrong is told on the device only."""

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from configs.load import parse_resolved
from fl_clients.app import app as tasks
from fl_clients.process.device_errors import kept_on_device
from fl_clients.process.time_limit import limited_to

__all__ = ["app"]


class DeviceApp(ClientApp):
    """Runs the tasks of `fl_clients.app`."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message.

        The process ends if the task exceeds `faults.client_seconds`; by then the server has stopped waiting.

        Raises:
            DeviceError: The task failed; the device's `errors.log` says why.
        """
        # What is wrong with the folder that the operator prepared is for the operator to read.
        opening = message.metadata.message_type == "query.rollcall"
        with kept_on_device(Path(str(context.node_config.get("store", "."))), opening):
            seconds = parse_resolved(str(context.run_config["config"])).faults.client_seconds
            with limited_to(seconds):
                return tasks(message, context)


app = DeviceApp()
