"""What the server learns about real devices from the roll call: sizes and versions, no names."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from configs.errors import RunFailed
from configs.versions import difference
from fl_server.record.schema import RunRecord, write_run
from strategies.wire import RollCallAnswer


def check_versions(answers: Mapping[int, RollCallAnswer]) -> None:
    """Refuse devices whose packages differ from the server's, because their results would differ.

    Args:
        answers: By partition id.

    Raises:
        RunFailed: A device's packages differ; the message names the device and the package.
    """
    for partition, answer in answers.items():
        try:
            versions = TypeAdapter(dict[str, str]).validate_json(answer.versions or "{}")
        except ValueError:
            raise RunFailed(f"roll call: the node of partition {partition} reports no versions") from None
        if problem := difference(versions):
            raise RunFailed(f"roll call: the node of partition {partition} is refused: {problem}")


def write_users_table(folder: Path, record: RunRecord, answers: Mapping[int, RollCallAnswer]) -> None:
    """Write `users.parquet` from the roll call: users of real devices are known only by number.

    Args:
        folder: The run record.
        record: The content of its `run.json`; the users' digest is filled in.
        answers: By partition id.
    """
    rows = [(user, answers[user].history, answers[user].queries) for user in sorted(answers)]
    users, history, queries = (list(column) for column in zip(*rows, strict=True))
    table = {"partition": users, "user_id": list(map(str, users)), "history": history, "queries": queries}
    pq.write_table(pa.table(table), folder / "users.parquet")
    record.users.data_sha256 = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    record.users.empty_histories = history.count(0)
    write_run(folder, record)
