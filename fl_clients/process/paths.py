"""The paths of a client's files: in the run record in a simulation, in separate folders on a real device."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.files import write_atomic
from configs.load import parse_resolved
from configs.paths import USERS_LINK, run_dir
from fl_clients.lamp.user_table import check_one_user


@dataclass(frozen=True)
class ClientPaths:
    """The files of one client."""

    run_dir: Path
    """Holds `config.toml`; the client writes its files below it."""
    data_dir: Path
    """The folder of the user table."""
    partition: int
    """The user's partition id."""
    is_real_device: bool = False
    """Whether this is a real device, which holds only its user's data."""

    @property
    def private_dir(self) -> Path:
        """The folder of the private tensors and of the state between rounds."""
        return self.run_dir / "private"

    @property
    def predictions_dir(self) -> Path:
        """The folder of the client's predictions."""
        return self.run_dir / ".predictions"


def client_paths(node_config: Mapping[str, object], run_config: Mapping[str, object], run_id: int) -> ClientPaths:
    """Return the paths of this client's files.

    A SuperNode of a real federation sets them with `--node-config 'partition-id=3 data="…" store="…"'`: the folder of
    its user's data, and the folder it may write to. The run's config then comes with Flower's run config.

    Args:
        node_config: Flower's node config.
        run_config: Flower's run config.
        run_id: Flower's run id.

    Raises:
        InputError: The data folder is not of this user and task.
    """
    partition = int(str(node_config["partition-id"]))
    if "store" not in node_config:
        folder = run_dir(run_config, run_id)
        return ClientPaths(folder, (folder / USERS_LINK).resolve(), partition)
    text = str(run_config["config"])
    data_dir = Path(str(node_config["data"]))
    check_one_user(data_dir, partition, parse_resolved(text).task)
    folder = Path(str(node_config["store"])) / f"run-{run_id}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / "config.toml").is_file():
        write_atomic(folder / "config.toml", text)
    return ClientPaths(folder, data_dir, partition, is_real_device=True)
