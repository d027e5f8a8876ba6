"""The format that users lie in on a client's disk: one Arrow table, one record batch a user.

`users.arrow` has the columns `user_id, kind, item_id, source, target`; a client maps its own user's pages and no
others. `users.parquet` is the index: `partition, user_id, batch, history, queries, leaks, skipped`. A device of a real
federation has a folder with one user alone, and `user.json`, which names the task.
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
from fl_clients.lamp.readers import Pair, User

ROWS = pa.schema([(name, pa.string()) for name in ("user_id", "kind", "item_id", "source", "target")])
_INDEX = ("partition", "user_id", "batch", "history", "queries", "leaks", "skipped")


class OpenedUser(NamedTuple):
    """One user's rows."""

    user_id: str
    history: list[Pair]
    queries: list[Pair]


def batch_of(user: User) -> pa.RecordBatch:
    """Return a user's rows of `users.arrow`."""
    pairs = [("history", pair) for pair in user.history] + [("query", pair) for pair in user.queries]
    columns = [[user.user_id] * len(pairs), [kind for kind, _ in pairs]]
    columns += [[getattr(pair, name) for _, pair in pairs] for name in ("item_id", "source", "target")]
    return pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=ROWS)


def write_index(rows: Sequence[tuple[int, str, int, int, int, int, int]], folder: Path) -> pa.Table:
    """Write `users.parquet`, one row a partition in the order of its columns, and return it."""
    columns = list(zip(*rows, strict=True))
    index = pa.table(dict(zip(_INDEX, map(list, columns), strict=True)))
    pq.write_table(index, folder / "users.parquet")
    return index


def open_user(folder: Path, partition: int) -> OpenedUser:
    """Read one user, touching no other user's rows.

    Raises:
        IndexError: There is no such partition in this folder.
    """
    index = _index(folder)
    row = pc.index(index["partition"], partition).as_py()
    if row < 0:
        raise IndexError(f"{folder}: holds no user of partition {partition}")
    with pa.memory_map(str(folder / "users.arrow")) as file:
        rows = pa.ipc.open_file(file).get_batch(index["batch"][row].as_py()).to_pylist()

    def pairs(kind: str) -> list[Pair]:
        return [Pair(row["item_id"], row["source"], row["target"]) for row in rows if row["kind"] == kind]

    return OpenedUser(index["user_id"][row].as_py(), pairs("history"), pairs("query"))


@lru_cache(maxsize=2)
def _index(folder: Path) -> pa.Table:
    return pq.read_table(folder / "users.parquet")


def write_one_user(user: OpenedUser, partition: int, task: str, folder: Path) -> None:
    """Write the folder of a device, readable by its owner alone: this user and no other.

    Args:
        user: Whose it is.
        partition: The number the user has in the federation.
        task: Of these texts.
        folder: New or empty.

    Raises:
        InputError: It is not, or cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: expected a new or empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from None
    own = User(user.user_id, user.history, user.queries, "any", 0, 0)
    with pa.OSFile(str(folder / "users.arrow"), "wb") as sink, pa.ipc.new_file(sink, ROWS) as writer:
        writer.write_batch(batch_of(own))
    write_index([(partition, own.user_id, 0, len(own.history), len(own.queries), 0, 0)], folder)
    (folder / "user.json").write_text(json.dumps({"task": task, "partition": partition}) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(0o600)


def check_one_user(folder: Path, partition: int, task: str) -> None:
    """Refuse a device's folder that is not of this user and task; the server is told, so no path is named.

    Raises:
        InputError: Says what is there instead.
    """
    try:
        found = json.loads((folder / "user.json").read_text(encoding="utf-8"))
        holds = (int(found["partition"]), str(found["task"]))
    except OSError:
        raise InputError(f"partition {partition}: its folder holds no user's data (no user.json)") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"partition {partition}: its user.json is not readable ({error})") from None
    for what, wanted, there in (("partition", partition, holds[0]), ("task", task, holds[1])):
        if wanted != there:
            raise InputError(
                f"partition {partition}: its folder holds data of {what} {there}, asked for is {what} {wanted}"
            )
