"""What the server learns about real devices from the roll call, and which devices it refuses."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.errors import RunFailed
from configs.versions import CODE, versions_here
from fl_server.record.schema import ParamsPart, RunRecord, UsersPart, read_run
from fl_server.roll_call import check_versions, write_users_table
from strategies.wire import RollCallAnswer


def answer(partition: int, history: int = 1, queries: int = 1, versions: str | None = None) -> RollCallAnswer:
    return RollCallAnswer(partition=partition, history=history, queries=queries, versions=versions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"torch": "2.0.0"}, "node of partition 1 is refused: torch is 2.0.0 there"),
        ({"peft": None}, "partition 1 is refused: peft is not installed there"),
        ({CODE: "0" * 16}, "fedperfit's code is 0000000000000000 there"),
    ],
)
def test_a_device_with_another_version_is_refused_by_name(change: dict[str, str | None], message: str) -> None:
    here = versions_here()
    there = {key: value for key, value in {**here, **change}.items() if value}
    answers = {0: answer(0, versions=json.dumps(here)), 1: answer(1, versions=json.dumps(there))}
    with pytest.raises(RunFailed) as caught:
        check_versions(answers)
    assert message in str(caught.value)
    check_versions({0: answers[0]})


def test_users_are_known_only_by_number(tmp_path: Path) -> None:
    record = RunRecord(
        name="run",
        method="perfit",
        task="movie_tagging",
        backbone="tiny",
        seed=0,
        users=UsersPart(collective=1, target=1, data_sha256="", source="devices"),
        params=ParamsPart(shared=1, private=1, backbone=1),
        versions={},
        git={"commit": None, "dirty": None},
    )
    write_users_table(tmp_path, record, {1: answer(1, 0, 4), 0: answer(0, 8, 0)})
    assert pq.read_table(tmp_path / "users.parquet").to_pylist() == [
        {"partition": 0, "user_id": "0", "history": 8, "queries": 0},
        {"partition": 1, "user_id": "1", "history": 0, "queries": 4},
    ]
    users = read_run(tmp_path).users
    assert users.empty_histories == 1
    assert len(users.data_sha256) == 64
