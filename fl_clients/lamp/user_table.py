"""The format of users on a client's disk: one Arrow table with one record batch per user.

`users.arrow` has the columns `user_id, kind, item_id, source, target`; a client maps only its user's pages into memory.
`users.parquet` is the index: `partition, user_id, batch, history, queries, leaks, skipped`. A device of a real
federation has a folder with a single user, and `user.json`, which gives the task.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import InputError
from configs.files import keep_out_of_git
from fl_clients.lamp.user import Pair, User

ROWS = pa.schema([(name, pa.string()) for name in ("user_id", "kind", "item_id", "source", "target")])


class IndexRow(NamedTuple):
    """A row of `users.parquet`: what is known of a user without reading its texts."""

    partition: int
    user_id: str
    batch: int
    """Place in `users.arrow`."""
    history: int
    """Items."""
    queries: int
    """Questions."""
    leaks: int
    """Examples left out because they reveal an answer."""
    skipped: int
    """Items and questions left out because they lack a text or an answer."""


class OpenedUser(NamedTuple):
    """One user's rows."""

    user_id: str
    history: list[Pair]
    queries: list[Pair]


def batch_of(user: User) -> pa.RecordBatch:
    """Return a user's rows for `users.arrow`."""
    pairs = [("history", pair) for pair in user.history] + [("query", pair) for pair in user.queries]
    columns = [[user.user_id] * len(pairs), [kind for kind, _ in pairs]]
    columns += [[getattr(pair, name) for _, pair in pairs] for name in ("item_id", "source", "target")]
    return pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=ROWS)


def write_index(rows: Sequence[IndexRow], folder: Path) -> pa.Table:
    """Write `users.parquet` and return it."""
    index = pa.Table.from_pylist([row._asdict() for row in rows])
    pq.write_table(index, folder / "users.parquet")
    return index


def open_user(folder: Path, partition: int) -> OpenedUser:
    """Read one user without reading other users' rows.

    Raises:
        IndexError: The folder has no such partition.
    """
    index = _index(folder)
    row = pc.index(index["partition"], partition).as_py()
    if row < 0:
        raise IndexError(f"{folder}: holds no user of partition {partition}")
    rows = _rows(folder).get_batch(index["batch"][row].as_py()).to_pylist()

    def pairs(kind: str) -> list[Pair]:
        return [Pair(row["item_id"], row["source"], row["target"]) for row in rows if row["kind"] == kind]

    return OpenedUser(index["user_id"][row].as_py(), pairs("history"), pairs("query"))


@lru_cache(maxsize=2)
def _index(folder: Path) -> pa.Table:
    return pq.read_table(folder / "users.parquet")


@lru_cache(maxsize=2)
def _rows(folder: Path) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(folder / "users.arrow")))


def write_one_user(user: OpenedUser, partition: int, task: str, folder: Path) -> None:
    """Write a device's data folder with this user only, readable by the owner only.

    Args:
        user: The device's user.
        partition: The user's partition id in the federation.
        task: The task of the user's texts.
        folder: New or empty.

    Raises:
        InputError: The folder is not empty or cannot be created.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: expected a new or empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        keep_out_of_git(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be created: {error.strerror}") from None
    with pa.OSFile(str(folder / "users.arrow"), "wb") as sink, pa.ipc.new_file(sink, ROWS) as writer:
        writer.write_batch(batch_of(User(user.user_id, user.history, user.queries, "any", 0, 0)))
    write_index([IndexRow(partition, user.user_id, 0, len(user.history), len(user.queries), 0, 0)], folder)
    (folder / "user.json").write_text(json.dumps({"task": task, "partition": partition}) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o600)


def check_one_user(folder: Path, partition: int, task: str) -> None:
    """Reject a device's folder of another user or task; the error is sent to the server, so it contains no path.

    Raises:
        InputError: The folder holds no user's data, or another user's or task's.
    """
    try:
        content = json.loads((folder / "user.json").read_text(encoding="utf-8"))
        actual_partition, actual_task = int(content["partition"]), str(content["task"])
    except OSError:
        raise InputError(f"partition {partition}: its folder holds no user's data (no user.json)") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"partition {partition}: its user.json cannot be read ({error})") from None
    checks = (("partition", partition, actual_partition), ("task", task, actual_task))
    for what, expected, actual in checks:
        if expected != actual:
            raise InputError(
                f"partition {partition}: its folder holds data of {what} {actual}, expected {what} {expected}"
            )
