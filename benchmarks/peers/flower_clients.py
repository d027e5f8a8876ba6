"""The ClientApps of plain Flower; in a module of their own, since Ray's workers import what a client needs by name."""

from functools import lru_cache
from pathlib import Path

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.peers.work import Work, read_users

loaded = lru_cache(maxsize=1)(Work)
users_of = lru_cache(maxsize=1)(read_users)


def client_app(kind: str, backbone: Path, file: Path, clients: int) -> ClientApp:
    """Return the ClientApp of one kind (see `benchmarks.peers.flower`)."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        if kind != "noop":
            arrays = trained(arrays, kind, backbone, file, clients, int(context.node_config["partition-id"]))
        metrics = MetricRecord({"num-examples": 6})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def trained(arrays: ArrayRecord, kind: str, backbone: Path, file: Path, clients: int, client: int) -> ArrayRecord:
    """Train the adapter in `arrays` on one client's examples."""
    work = Work(backbone) if kind == "reload" else loaded(backbone)
    work.load(arrays.to_numpy_ndarrays())
    work.train(users_of(file, clients)[client])
    return ArrayRecord(work.state())
