"""The run record: the folder one run leaves in `results/`, a stable interface other tools read.

`config.toml` · `run.json` · `users.parquet` (which user is which partition) · `rounds.parquet` · `clients.parquet` ·
`ledger.parquet` · `predictions.jsonl` · `shared.safetensors` (what a newcomer is sent) · `private/` · `events.jsonl`
(what happened, as it happened) · `errors.jsonl` (failed clients). Until a run has completed, `.checkpoint/` says how
far it is (fl_server/record/checkpoint.py), and other folders with dots hold what tables and predictions are made of.
"""

import json
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from configs.errors import InputError
from configs.files import write_atomic

Status = Literal["running", "completed", "failed", "cancelled"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class UsersPart(_Part):
    """Who took part."""

    collective: int
    target: int
    data_sha256: str
    source: Literal["synthetic", "lamp", "oppu", "devices"]
    """`devices`: users of a real federation, each with its own data."""
    empty_histories: int = 0
    leaks: int = 0
    skipped: int = 0


class BytesPart(_Part):
    """Bytes of the whole run, each a sum over `ledger.parquet`."""

    up: int = 0
    down: int = 0
    total: int = 0
    payload_up: int = 0
    payload_down: int = 0
    per_client_round_up: float = 0.0
    per_client_round_down: float = 0.0


class ParamsPart(_Part):
    """Numbers of parameters: travelling, kept per user, frozen."""

    shared: int
    private: int
    backbone: int


class OraclePart(_Part):
    """The best reachable score of `metric` on the target users, knowing each of them and not knowing them."""

    metric: str
    personalised: float
    collective: float


class RunRecord(_Part):
    """`run.json`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_version: Literal[1] = 1
    name: str
    status: Status = "running"
    error: str | None = None
    method: str
    task: str
    backbone: str
    seed: int
    users: UsersPart
    metrics: dict[str, float] = {}
    metrics_collective: dict[str, float] = {}
    metrics_base: dict[str, float] = {}
    oracle: OraclePart | None = None
    per_user: dict[str, dict[str, float]] = {}
    bytes: BytesPart = BytesPart()
    params: ParamsPart
    wall_s: float = 0.0
    """Seconds it took; where it did not complete, until its last checkpoint."""
    versions: dict[str, str] = {}
    git: dict[str, str | bool | None] = {}
    resumed: int = 0
    retries: int = 0
    left_out: int = 0
    over_memory: int = 0
    """Tasks that took more memory than the user's device has."""
    simulated_s: float | None = None
    shared_sha256: str | None = None
    """Of `shared.safetensors`, which records may be kept without."""

    @property
    def main_metric(self) -> str:
        """The metric that comparisons are about, the first; of completed runs only."""
        return next(iter(self.metrics))


def read_run(folder: Path | str) -> RunRecord:
    """Read and validate `run.json`.

    Raises:
        InputError: Missing or not a run record.
    """
    path = Path(folder) / "run.json"
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        content["schema_version"] = content.pop("schema")
        return RunRecord.model_validate(content)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a run record: {error}") from None


def write_run(folder: Path, record: RunRecord) -> None:
    """Validate and write `run.json`, whole or not at all."""
    content = RunRecord.model_validate(record.model_dump()).model_dump(mode="json")
    content = {"schema": content.pop("schema_version"), **content}
    write_atomic(folder / "run.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def mark_resumed(folder: Path) -> None:
    """Note in a record that its run is taken up again."""
    record = read_run(folder)
    record.status, record.error, record.resumed = "running", None, record.resumed + 1
    write_run(folder, record)
    append_line(folder / "events.jsonl", {"event": "resumed"})


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Append one JSON line, stamped with the time in seconds since the epoch."""
    line = json.dumps({"time": round(time.time(), 3), **value}, ensure_ascii=False)
    with path.open("ab") as file:
        # One write to a file opened for appending is one line, whoever else writes and is killed.
        file.write(line.encode() + b"\n")


def finish_partial_line(path: Path) -> None:
    """End a line that a killed process left half written, so that the next stands by itself; readers pass it over."""
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")
