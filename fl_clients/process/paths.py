"""Where a client's files are: in a simulation in the run record, on a real device in folders of its own."""

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
    """Holds `config.toml`; the client writes below it."""
    data_dir: Path
    """The user table."""
    partition: int
    """Which user of it."""
    is_real_device: bool = False
    """On a device of its own, which has its user's data only."""

    @property
    def private_dir(self) -> Path:
        """Where the client keeps private tensors and its state between rounds."""
        return self.run_dir / "private"

    @property
    def predictions_dir(self) -> Path:
        """Where the client writes its answers."""
        return self.run_dir / ".predictions"


def client_paths(node_config: Mapping[str, object], run_config: Mapping[str, object], run_id: int) -> ClientPaths:
    """Return where this client's files are.

    A SuperNode of a real federation says so itself, by `--node-config 'partition-id=3 data="…" store="…"'`: the folder
    of its user's data, and the folder it may write to. The run's config then comes with Flower's run config.

    Args:
        node_config: Flower's, of this node.
        run_config: Flower's.
        run_id: Flower's.

    Raises:
        InputError: The folder does not hold this user's data, or another task's.
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
