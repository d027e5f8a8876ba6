"""The task of LaMP files is told from the first question."""

import json
from pathlib import Path

import pytest

from configs.errors import InputError
from fl_clients.lamp.readers import recognise_task
from fl_clients.lamp.tasks import TASKS, Task
from tests.conftest import movie, write_lamp


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_is_recognised_in_both_layouts(task: Task, tmp_path: Path) -> None:
    question = {"id": "1", "input": f"{task.opening} {task.marker} some text", "profile": []}
    official = write_lamp(tmp_path / "official", [question], [{"id": "1", "output": "x"}])
    assert recognise_task(official) is task
    folder = tmp_path / "oppu"
    folder.mkdir()
    for name in ("user_others", "user_top_100_history", "user_top_100_history_label"):
        rows = [] if name == "user_others" else [{"user_id": "u", "profile": [], "query": [question]}]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    assert recognise_task(folder) is task


def test_a_question_of_no_task_asks_for_one(tmp_path: Path) -> None:
    folder = write_lamp(tmp_path, [{**movie("1"), "input": "Who are you?"}], [{"id": "1", "output": "comedy"}])
    with pytest.raises(InputError, match="of no known task; expected --task, one of movie_tagging"):
        recognise_task(folder)
