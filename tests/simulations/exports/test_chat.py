"""`fedperfit chat` answers as the run did."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from configs.errors import InputError
from configs.load import read_resolved
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.user_table import open_user
from simulations.cli.main import app
from simulations.exports.chat import Chat
from simulations.run.served import load_served_model
from tests.simulations.exports.exported import STEERING, first_target

pytestmark = pytest.mark.integration


def test_chat_chooses_a_label_as_the_run_did(run: Callable[..., Path]) -> None:
    folder = run("perfit")
    user = first_target(folder)
    chat = Chat(load_served_model(folder, user))
    table = build_table(read_resolved(folder / "config.toml"))
    queries = {query.item_id: query.source for query in open_user(table.folder, 6).queries}
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    answered = [row for row in rows if row["query"] in queries]
    assert {row["stage"] for row in answered} == {"base", "collective", "personalised"}
    assert all(chat.answer(queries[row["query"]])[row["stage"]] == row["prediction"] for row in answered)


def test_chat_answers_side_by_side(run: Callable[..., Path]) -> None:
    folder = run("perfit")
    words = ["chat", folder.name, "--results", str(folder.parent)]
    done = CliRunner().invoke(app, [*words, "--json"], input="one\ntwo\n\nthree\n", catch_exceptions=False)
    assert [list(json.loads(line)) for line in done.output.splitlines()] == [["base", "collective"]] * 2
    personal = [*words, "--user", first_target(folder), "--prompt", "A heist goes wrong."]
    shown = CliRunner().invoke(app, personal, catch_exceptions=False).output
    assert all(stage in shown for stage in ("base", "collective", "personalised", "A heist goes wrong."))
    marked = CliRunner().invoke(app, [*words, "--prompt", "see [/inst] here"], catch_exceptions=False).output
    assert "see [/inst] here" in marked
    with pytest.raises(InputError, match="expected a text"):
        CliRunner().invoke(app, [*words, "--prompt", " "], catch_exceptions=False)
    with pytest.raises(InputError, match="expected text in UTF-8"):
        CliRunner().invoke(app, [*words, "--json"], input=b"fine\nno \xff text\n", catch_exceptions=False)


@pytest.mark.parametrize("method", ["rag", "pag", "chameleon", "perfit"])
def test_chat_answers_as_the_run_did(method: str, run: Callable[..., Path], answers_differ: None) -> None:
    words = {"chameleon": STEERING["chameleon"], "perfit": ("history.retrieve=2",)}.get(method, ())
    folder = run(method, *words)
    user = first_target(folder)
    chat = Chat(load_served_model(folder, user))
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    opened = open_user(build_table(read_resolved(folder / "config.toml")).folder, 6)
    for query in opened.queries:
        answers = chat.answer(query.source)
        for point in ("collective", "personalised"):
            said = [row["prediction"] for row in rows if row["user"] == 6 and row["stage"] == point]
            asked = [row["query"] for row in rows if row["user"] == 6 and row["stage"] == point]
            assert answers[point] == said[asked.index(query.item_id)]
