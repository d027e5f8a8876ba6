"""The paths of a client's files, and devices' folders with wrong contents."""

from pathlib import Path

import pytest

from configs.errors import InputError
from configs.load import dump_resolved
from fl_clients.lamp.user import Pair
from fl_clients.lamp.user_table import OpenedUser, open_user, write_one_user
from fl_clients.process.paths import ClientPaths, client_paths
from tests.conftest import tiny_config

ANN = OpenedUser("ann", [Pair("h0", "a film", "comedy")], [Pair("q0", "another film", "action")])


def ask(data: Path, store: Path, partition: int = 3, task: str = "movie_tagging") -> ClientPaths:
    node = {"partition-id": partition, "data": str(data), "store": str(store)}
    return client_paths(node, {"config": dump_resolved(tiny_config(f"task={task}")), "run-dir": ""}, 7)


def test_a_simulated_clients_files_are_in_the_run_record(tmp_path: Path) -> None:
    (tmp_path / ".users").symlink_to(tmp_path / "table")
    paths = client_paths({"partition-id": 2}, {"run-dir": str(tmp_path)}, 7)
    assert paths == ClientPaths(tmp_path, tmp_path / "table", 2)


def test_a_real_device_has_separate_folders(tmp_path: Path) -> None:
    write_one_user(ANN, 3, "movie_tagging", tmp_path / "user")
    paths = ask(tmp_path / "user", tmp_path / "store")
    assert paths == ClientPaths(tmp_path / "store" / "run-7", tmp_path / "user", 3, is_real_device=True)
    assert (paths.run_dir.stat().st_mode & 0o777) == 0o700
    assert (paths.run_dir / "config.toml").read_text() == dump_resolved(tiny_config())
    assert open_user(tmp_path / "user", 3) == ANN
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "user").iterdir()}
    assert (modes, (tmp_path / "user").stat().st_mode & 0o777) == ({0o600}, 0o700)
    with pytest.raises(InputError, match="expected a new or empty folder"):
        write_one_user(ANN, 3, "movie_tagging", tmp_path / "user")
    with pytest.raises(IndexError, match="holds no user of partition 0"):
        open_user(tmp_path / "user", 0)


def test_a_folder_of_another_user_or_task_or_without_data_is_refused(tmp_path: Path) -> None:
    write_one_user(ANN, 3, "movie_tagging", tmp_path / "user")
    with pytest.raises(InputError, match="partition 4: its folder holds data of partition 3, expected partition 4"):
        ask(tmp_path / "user", tmp_path / "store", partition=4)
    with pytest.raises(InputError, match="holds data of task movie_tagging, expected task product_rating"):
        ask(tmp_path / "user", tmp_path / "store", task="product_rating")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="partition 3: its folder holds no user's data"):
        ask(tmp_path / "empty", tmp_path / "store")
    (tmp_path / "user" / "user.json").write_text("{")
    with pytest.raises(InputError, match=r"its user\.json cannot be read"):
        ask(tmp_path / "user", tmp_path / "store")
