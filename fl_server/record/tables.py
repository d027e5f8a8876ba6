"""The tables of a run record: their columns, how they grow during a run, and how their parts are merged."""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.files import write_atomic
from configs.import_path import IMPORT_PATH_FILE
from configs.paths import USERS_LINK

ROUNDS = pa.schema(
    [
        ("round", pa.int32()),
        ("cohort", pa.int32()),
        ("replies", pa.int32()),
        ("failures", pa.int32()),
        ("rejected", pa.int32()),
        ("retries", pa.int32()),
        ("seconds", pa.float64()),
        ("simulated_s", pa.float64()),
        ("server_s", pa.float64()),
        ("server_rss_bytes", pa.int64()),
        ("bytes_up", pa.int64()),
        ("bytes_down", pa.int64()),
        ("loss", pa.float64()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
    ]
)
CLIENTS = pa.schema(
    [
        ("round", pa.int32()),
        ("phase", pa.string()),
        ("user", pa.int32()),
        ("examples", pa.int32()),
        ("examples_cut", pa.int32()),
        ("questions_cut", pa.int32()),
        ("steps", pa.int32()),
        ("loss_first", pa.float64()),
        ("loss_last", pa.float64()),
        ("wall_s", pa.float64()),
        ("ended_at", pa.float64()),
        ("partition", pa.string()),
        ("peak_memory_bytes", pa.int64()),
        ("status", pa.string()),
        ("retries", pa.int32()),
        ("device", pa.string()),
        ("over_memory", pa.bool_()),
        ("simulated_s", pa.float64()),
        ("metrics", pa.map_(pa.string(), pa.float64())),
    ]
)
LEDGER = pa.schema(
    [
        ("round", pa.int32()),
        ("phase", pa.string()),
        ("direction", pa.string()),
        ("user", pa.int32()),
        ("record", pa.string()),
        ("group", pa.string()),
        ("elements", pa.int64()),
        ("payload_bytes", pa.int64()),
        ("message_bytes", pa.int64()),
        ("codec", pa.string()),
        ("dtype", pa.string()),
    ]
)

TABLES = {"rounds": ROUNDS, "clients": CLIENTS, "ledger": LEDGER}
ADDED = {"server_s", "server_rss_bytes"}
"""Columns that older records lack; their readers get nulls."""


class TableWriter:
    """Writes a table in parts, which are readable once written, so that a killed run keeps what it recorded."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema, keep: int = 0) -> None:
        """Open the table `name` of the run record `folder`; `gather` merges the parts into `<name>.parquet`.

        Args:
            folder: The run record.
            name: One of `TABLES`.
            schema: Its columns.
            keep: Number of parts of a resumed run to keep; the others are deleted.
        """
        self._schema = schema
        self._parts = folder / f".{name}"
        self._parts.mkdir(exist_ok=True)
        for path in self._parts.iterdir():
            if path.suffix != ".parquet" or int(path.stem) >= keep:
                path.unlink()
        self._rows: list[dict[str, Any]] = []
        self.written = keep
        """Number of parts written."""

    def add(self, **row: Any) -> None:
        """Add one row; columns left out are null."""
        self._rows.append(row)
        if len(self._rows) >= 5000:
            self.flush()

    def parts(self) -> list[Path]:
        """Return the parts written, in order."""
        return sorted(self._parts.glob("*.parquet"))

    def flush(self) -> None:
        """Write the rows added so far as a part."""
        if self._rows:
            table = pa.Table.from_pylist(self._rows, schema=self._schema)
            write_atomic(self._parts / f"{self.written:06}.parquet", partial(pq.write_table, table))
            self._rows, self.written = [], self.written + 1


def read_rows(folder: Path, name: str) -> pa.Table:
    """Return one of a record's `TABLES`; for a running or killed run, the rows recorded so far.

    Raises:
        pa.ArrowException: The table is not readable.
        FileNotFoundError: There is neither a table nor a folder of its parts.
    """
    # A resumed run still has the table from its interruption; its parts are newer.
    if not (folder / f".{name}").is_dir():
        return pq.read_table(folder / f"{name}.parquet")
    return _read_parts(folder, name)


def _read_parts(folder: Path, name: str) -> pa.Table:
    schema = TABLES[name]
    parts = sorted((folder / f".{name}").glob("*.parquet"))
    return pa.concat_tables([schema.empty_table(), *(pq.read_table(path, schema=schema) for path in parts)])


def write_compact(table: pa.Table, path: Path) -> None:
    """Write a finished table as one row group: every further group would add a header and a dictionary."""
    pq.write_table(table, path, compression="zstd", row_group_size=max(1, table.num_rows))


def gather(folder: Path) -> None:
    """Merge the parts of the record's tables and predictions; the parts stay for a resume.

    Call it only when no process of the run is still writing.
    """
    for name in TABLES:
        if (folder / f".{name}").is_dir():
            table = _read_parts(folder, name)
            write_atomic(folder / f"{name}.parquet", partial(write_compact, table))
    _gather_predictions(folder)
    shutil.rmtree(folder / ".partitions", ignore_errors=True)


def keep_last_private(private: Path, last_turns: Mapping[int, int]) -> None:
    """Make every user's last counted state (`<partition>.rounds/<n>.safetensors`) its private file; delete the others.

    Call it only when no client is still writing.

    Args:
        private: The private store.
        last_turns: The last round in which a user's update counted, by user.
    """
    for path in private.glob("*.tmp"):  # left by killed clients
        path.unlink()
    for folder in private.glob("*.rounds"):
        user = int(folder.stem)
        states = {int(path.stem): path for path in folder.glob("*.safetensors")}
        counted = [number for number in states if number <= last_turns.get(user, -1)]
        last = states.pop(max(counted)) if counted else None
        # The last state is moved once the others are deleted, so that a killed process can repeat this.
        for path in states.values():
            path.unlink()
        if last:
            last.replace(private / f"{user}.safetensors")
        shutil.rmtree(folder)


def clean(folder: Path) -> None:
    """Remove what only a resume would need."""
    for name in (*TABLES, "predictions", "personalised", "checkpoint", "secure"):
        shutil.rmtree(folder / f".{name}", ignore_errors=True)
    for left in folder.glob("*.tmp"):  # left by killed processes
        left.unlink()
    for name in (USERS_LINK, IMPORT_PATH_FILE, ".noise.key", ".releases", ".opened"):
        (folder / name).unlink(missing_ok=True)


def _gather_predictions(folder: Path) -> None:
    parts = folder / ".predictions"
    if not parts.is_dir():
        return
    order = {"base": 0, "collective": 1, "personalised": 2}

    def user_and_point(path: Path) -> tuple[int, int]:
        user, _, point = path.stem.partition("-")
        return int(user), order[point]

    def merge(target: Path) -> None:
        with target.open("w", encoding="utf-8") as merged:
            for path in sorted(parts.glob("*.jsonl"), key=user_and_point):
                merged.write(path.read_text(encoding="utf-8"))

    write_atomic(folder / "predictions.jsonl", merge)
