"""Where a client's things are: in a simulation in the run record, on a real device in folders of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from configs.load import parse_resolved
from configs.paths import USERS_LINK, run_dir
from fl_clients.lamp.table import check_one_user


@dataclass(frozen=True)
class Place:
    """What a client works with."""

    run_dir: Path
    """Holds `config.toml`, and `private/`, which is written there."""
    data_dir: Path
    """The user table."""
    partition: int
    own: bool
    """On a device of its own, which has its user's data alone."""


def place_of(node_config: Mapping[str, object], run_config: Mapping[str, object], run_id: int) -> Place:
    """Return where this client's things are.

    A SuperNode of a real federation says so itself, by `--node-config 'partition-id=3 data="…" store="…"'`: the folder
    of its user's data, and the one where it may keep things. The run's config comes with Flower's run config then.

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
        return Place(folder, (folder / USERS_LINK).resolve(), partition, own=False)
    text = str(run_config["config"])
    data_dir = Path(str(node_config["data"]))
    check_one_user(data_dir, partition, parse_resolved(text).task)
    folder = Path(str(node_config["store"])) / f"run-{run_id}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / "config.toml").is_file():
        scratch = folder / "config.toml.tmp"
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(folder / "config.toml")
    return Place(folder, data_dir, partition, own=True)
