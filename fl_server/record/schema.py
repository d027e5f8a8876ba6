"""The run record: the folder that a run writes to `results/`, a stable interface for other tools.

`config.toml` · `run.json` · `users.parquet` (which user is which partition) · `rounds.parquet` · `clients.parquet` ·
`ledger.parquet` · `predictions.jsonl` · `shared.safetensors` (what newcomers are sent) · `private/` · `events.jsonl`
(the run's progress) · `errors.jsonl` (failed clients). Until a run has completed, `.checkpoint/` holds its progress
(fl_server/record/checkpoint.py), and other folders with a dot hold the parts of tables and predictions.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

from configs.errors import InputError
from configs.files import append_line, write_atomic

Status = Literal["running", "completed", "failed", "cancelled"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class UsersPart(_Part):
    """The users of a run."""

    collective: int
    target: int
    questions: int | None = None
    """Of the target users; None in records of earlier versions and of real devices."""
    data_sha256: str
    source: Literal["synthetic", "lamp", "oppu", "devices"]
    """`devices`: users of a real federation, whose data are on their devices."""
    empty_histories: int = 0
    leaks: int = 0
    """Examples left out because they reveal a question's answer."""
    skipped: int = 0
    """History items and questions without a text or a gold."""
    joined: int = 0
    """Questions that are their users' because of the profiles."""


class BytesPart(_Part):
    """Bytes of the whole run, summed over `ledger.parquet`."""

    up: int = 0
    down: int = 0
    total: int = 0
    payload_up: int = 0
    payload_down: int = 0
    payload_training: int | None = None
    """Of the messages that train, both ways: the communication that FlowerTune's leaderboard counts. None in records of
    earlier versions."""
    per_client_round_up: float = 0.0
    per_client_round_down: float = 0.0
    ratio_up: float = 1.0
    """Bytes of the sent numbers as fp32, over those of the arrays that carried them."""
    ratio_down: float = 1.0
    codec_up: str = "raw"
    """How changes of the tensors were written, without a share."""
    codec_down: str = "raw"


class ParamsPart(_Part):
    """Numbers of parameters: shared, private per user, frozen."""

    shared: int
    private: int
    backbone: int


class OraclePart(_Part):
    """The best reachable scores of `metric` on the target users of a synthetic run."""

    metric: str
    personalised: float
    """The user's preferences are known."""
    collective: float
    """Only the crowd's are known."""
    learner: float | None = None
    """The user's are learned from the user's items as well as can be (`ideal_learner`); None for texts, whose authors'
    styles a few items show, and for a run with exchanged histories."""


class AgreementPart(_Part):
    """Quality on the questions on which a synthetic user and the crowd agree, or on those on which they differ."""

    questions: int
    metrics: dict[str, dict[str, float]]
    """By evaluation point."""


class PrivacyPart(_Part):
    """User-level differential privacy of stage 1, for neighbours that differ in one user's data."""

    kind: Literal["central", "local"]
    epsilon: float | None
    """ε for `delta`; None: no finite one, since there was no noise."""
    delta: float
    noise_multiplier: float
    clip: float
    """C after the last round."""
    rounds: int


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
    baselines: dict[str, dict[str, float]] = {}
    """Metrics of answers that need no model (`Baseline`)."""
    controls: dict[str, dict[str, float]] = {}
    """Metrics of what target users could be sent instead of what is theirs (`Method.server_controls`)."""
    figures: dict[str, float] = {}
    """Means over target users of what the method measured in stage 2 (`FitResult.figures`), such as `pairs`."""
    oracle: OraclePart | None = None
    privacy: PrivacyPart | None = None
    """What stage 1 has spent; None without differential privacy, or without stage 1."""
    agreement: dict[str, AgreementPart] = {}
    """`agree` and `differ`, for synthetic users."""
    per_user: dict[str, dict[str, float]] = {}
    bytes: BytesPart = BytesPart()
    params: ParamsPart
    wall_s: float = 0.0
    """Seconds the run took; until its last checkpoint if it did not complete."""
    versions: dict[str, str] = {}
    git: dict[str, str | bool | None] = {}
    resumed: int = 0
    retries: int = 0
    left_out: int = 0
    over_memory: int = 0
    """Number of tasks that used more memory than the user's device has."""
    backbone_sha256: str | None = None
    """What tells the backbone's weights from others of the same name; None in older records."""
    simulated_s: float | None = None
    shared_sha256: str | None = None
    """Digest of `shared.safetensors`, which may be missing from stored records."""

    @field_validator("name", "method", "task", "backbone")
    @classmethod
    def _is_printable(cls, text: str) -> str:
        """Refuse what would command a terminal: a record may come from anybody."""
        if not text.isprintable():
            raise ValueError("expected printable characters only")
        return text

    @property
    def main_metric(self) -> str:
        """The metric that comparisons use, which is the first; only for completed runs."""
        return next(iter(self.metrics))


def read_run(folder: Path | str) -> RunRecord:
    """Read and validate `run.json`.

    Raises:
        InputError: The file is missing or not a run record.
    """
    path = Path(folder) / "run.json"
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        content["schema_version"] = content.pop("schema")
        return RunRecord.model_validate(content)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a run record: {error}") from None


def write_run(folder: Path, record: RunRecord) -> None:
    """Validate `run.json` and write it atomically."""
    content = RunRecord.model_validate(record.model_dump()).model_dump(mode="json")
    content = {"schema": content.pop("schema_version"), **content}
    write_atomic(folder / "run.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def mark_resumed(folder: Path) -> None:
    """Note in a record that its run is resumed."""
    record = read_run(folder)
    record.status, record.error, record.resumed = "running", None, record.resumed + 1
    write_run(folder, record)
    append_line(folder / "events.jsonl", {"event": "resumed"})


def finish_partial_line(path: Path) -> None:
    """End a line that a killed process left half written, so that the next one is intact; readers skip it."""
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")
