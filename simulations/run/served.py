"""Loads the model that a completed run serves to one user: the backbone with the method's adapter."""

from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import InputError, nearest
from configs.schema import RunConfig
from fl_clients.backbone.load import Backbone, check_backbone, load, resolve_precision
from fl_clients.private_store import private_path
from fl_server.record.folder import RunFolder
from fl_server.record.schema import RunRecord
from fl_server.record.tensors import read_tensors
from simulations.run.preflight import build_method, find_changed_method, method_digest
from strategies.method import Adapter, Method, Tensors, has_personal_part


@dataclass(frozen=True)
class ServedModel:
    """A backbone with the adapter of one run attached."""

    folder: Path
    """The run record."""
    record: RunRecord
    config: RunConfig
    backbone: Backbone
    method: Method
    adapter: Adapter
    shared: Tensors
    """The tensors that a newcomer downloads."""
    partition: int | None
    """The user's partition; None for the collective part only."""
    private: Tensors | None
    """The tensors that the user keeps; None if there are none, or no user."""

    def personalise(self, personal: bool) -> None:
        """Set the adapter to the user's personalised model, or to the collective part only."""
        self.method.client_load(self.adapter, self.shared, self.private if personal else None)

    def of_user(self, user: str) -> "ServedModel":
        """Return the model of a target user, personalised; backbone and adapter are the same objects.

        Raises:
            InputError: The user is not a target user, or its private tensors are missing.
        """
        partition = _find_user(self.folder, self.record, user)
        if self.record.users.source == "devices" and has_personal_part(self.method):
            raise InputError(
                "in a real federation, users' private tensors are on their devices", field="user", value=user
            )
        path = private_path(self.folder / "private", partition)
        rows = RunFolder(self.folder).users(["partition", "history"]).to_pylist()
        history = next(row["history"] for row in rows if row["partition"] == partition)
        # A user without history is served by the shared tensors.
        if history and has_personal_part(self.method) and not path.is_file():
            raise InputError(f"{path}: missing, so the model of user {user} is unknown")
        served = replace(self, partition=partition, private=read_tensors(path) if path.is_file() else None)
        served.personalise(True)
        return served


def load_served_model(folder: Path, user: str | None) -> ServedModel:
    """Load the model that a completed run serves to one of its target users, on the CPU.

    Args:
        folder: The run record.
        user: The user's id in `users.parquet`; None for the collective part only.

    Raises:
        InputError: The run did not complete, its backbone or method is missing, the user is not a target user, or this
            user's private tensors are missing.
    """
    files = RunFolder(folder)
    record = files.record
    if record.status != "completed":
        raise InputError(f"{folder}: this run did not complete ({files.status})")
    config = files.config
    if user is not None:
        _find_user(folder, record, user)
    check_backbone(config.backbone, record.backbone_sha256)
    backbone = load(config.backbone, resolve_precision(config.precision, False))
    method = build_method(config, backbone.shape)
    if changed := find_changed_method(method_digest(method), record):
        raise InputError(f"{folder}: {changed} the run began")
    adapter = method.client_attach(backbone.model, backbone.shape)
    served = ServedModel(folder, record, config, backbone, method, adapter, read_tensors(files.shared), None, None)
    if user is not None:
        return served.of_user(user)
    served.personalise(False)
    return served


def _find_user(folder: Path, record: RunRecord, user: str) -> int:
    table = RunFolder(folder).users(["user_id", "partition"]).to_pydict()
    partitions: dict[str, int] = dict(zip(table["user_id"], table["partition"], strict=True))
    targets = [target for target, partition in partitions.items() if partition >= record.users.collective]
    if user in targets:
        return partitions[user]
    why = (
        "only target users are personalised" if user in partitions else "`fedperfit runs show NAME --users` lists them"
    )
    if user.isdigit() and (owner := [name for name in targets if partitions[name] == int(user)]):
        why = f"{user} is a user's number; the id is {owner[0]}"
    raise InputError(
        f"no target user of {folder}{nearest(user, targets)} ({why}; the first is {targets[0]})",
        field="user",
        value=user,
    )
