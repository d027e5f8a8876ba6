"""Comparison of two runs that should be identical, except for times and Flower's random ids."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from fl_server.record.schema import read_run

_TIMES = {
    "seconds",
    "wall_s",
    "ended_at",
    "peak_memory_bytes",
    "partition",
    "server_s",
    "server_rss_bytes",
    "message_bytes",
    "bytes_up",
    "bytes_down",
    "retries",
    "over_memory",
}


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    rows = pq.read_table(folder / f"{name}.parquet").to_pylist()
    return sorted(({k: v for k, v in row.items() if k not in _TIMES} for row in rows), key=repr)


def assert_same_run(found: Path, expected: Path) -> None:
    """Compare tensors, predictions and files bit by bit, tables row by row, and the results in `run.json`."""
    names = {path.relative_to(folder) for folder in (found, expected) for path in files(folder)}
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    for name in ("users", "rounds", "clients", "ledger"):
        assert table(found, name) == table(expected, name), name
    ours, theirs = read_run(found), read_run(expected)
    for key in ("status", "error", "metrics", "metrics_base", "metrics_collective", "per_user", "params", "left_out"):
        assert getattr(ours, key) == getattr(theirs, key), key
    assert (ours.bytes.payload_up, ours.bytes.payload_down) == (theirs.bytes.payload_up, theirs.bytes.payload_down)
    # No intermediate files are left.
    assert not [path for path in found.iterdir() if path.name.startswith(".")]


def files(folder: Path) -> list[Path]:
    return [folder / "shared.safetensors", folder / "predictions.jsonl", *(folder / "private").iterdir()]
