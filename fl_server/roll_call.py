"""What the server learns of real devices when they answer the roll call: their sizes and versions, and no names."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import RunFailed
from configs.versions import difference
from fl_server.records import RunRecord, write_run


def check_versions(answers: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuse devices that would not compute what the others do.

    Args:
        answers: By partition id.

    Raises:
        RunFailed: Names the device and the package.
    """
    for partition, answer in answers.items():
        if problem := difference(json.loads(answer["versions"])):
            raise RunFailed(f"roll call: the node of partition {partition} is refused: {problem}")


def enter_users(folder: Path, record: RunRecord, answers: Mapping[int, Mapping[str, Any]]) -> None:
    """Write `users.parquet` from the roll call: whoever trains here is known by a number alone.

    Args:
        folder: The run record.
        record: Its content, which is completed.
        answers: By partition id.
    """
    rows = [(user, int(answers[user]["history"]), int(answers[user]["queries"])) for user in sorted(answers)]
    users, history, queries = (list(column) for column in zip(*rows, strict=True))
    table = {"partition": users, "user_id": list(map(str, users)), "history": history, "queries": queries}
    pq.write_table(pa.table(table), folder / "users.parquet")
    record.users.data_sha256 = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    record.users.empty_histories = history.count(0)
    write_run(folder, record)
