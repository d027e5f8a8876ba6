"""Controls for personalisation: questions on which user and crowd differ, and training on another user's history."""

import json
from pathlib import Path

import pytest

from fl_clients.lamp.select_users import build_table, differing_questions
from fl_clients.lamp.user_table import open_user
from simulations.display.tables import quality_table, rows_of
from simulations.run.simulate import simulate
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration


def test_quality_is_split_by_whether_user_and_crowd_agree(tmp_path: Path) -> None:
    config = tiny_config("rounds=1", "users.synthetic.queries=12")
    record = simulate(config, "run", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").open()]
    differing = differing_questions(config)
    agree, differ = record.agreement["agree"], record.agreement["differ"]
    assert (agree.questions + differ.questions, differ.questions > 0) == (3 * 12, True)
    hits = [
        line["gold"] == line["prediction"]
        for line in lines
        if line["stage"] == "collective" and line["query"] in differing
    ]
    assert differ.metrics["collective"]["accuracy"] == pytest.approx(sum(hits) / len(hits))
    # The pooled accuracy is the mean over both parts.
    for point, pooled in (("base", record.metrics_base), ("personalised", record.metrics)):
        parts = sum(part.questions * part.metrics[point]["accuracy"] for part in (agree, differ))
        assert parts / 36 == pytest.approx(pooled["accuracy"])
    shown = {row[0]: row[1] for row in rows_of(quality_table(record))}
    expected = f"{differ.metrics['collective']['accuracy']:.3f} → {differ.metrics['personalised']['accuracy']:.3f}"
    assert shown[f"where user and crowd differ ({differ.questions} questions), before and after stage 2"] == expected


def test_whoever_knows_the_crowd_only_is_wrong_where_they_differ(tmp_path: Path) -> None:
    # Without noise, the crowd's answer is right exactly where user and crowd agree.
    config = tiny_config("users.synthetic.noise=0", "users.synthetic.queries=40")
    table = build_table(config)
    differing = differing_questions(config)
    asked = [query for partition in (6, 7, 8) for query in open_user(table.folder, partition).queries]
    assert table.oracle is not None
    share = sum(query.item_id not in differing for query in asked) / len(asked)
    assert (table.oracle.personalised, table.oracle.collective) == (1, pytest.approx(share))


def test_a_control_trains_every_target_on_the_next_ones_history() -> None:
    own, control = (build_table(tiny_config(*words)) for words in ((), ("users.exchange_histories=true",)))
    for partition, giver in ((6, 7), (7, 8), (8, 6)):
        user, given = open_user(control.folder, partition), open_user(own.folder, giver)
        assert [pair.source for pair in user.history] == [pair.source for pair in given.history]
        assert user.queries == open_user(own.folder, partition).queries
    # Collective users keep their own.
    assert open_user(control.folder, 0).history == open_user(own.folder, 0).history


def test_the_control_starts_from_the_stage_1_of_the_run_it_is_for(tmp_path: Path) -> None:
    simulate(tiny_config(), "own", tmp_path)
    words = (f"start_from={tmp_path / 'own'}", "users.exchange_histories=true")
    record = simulate(tiny_config(*words), "control", tmp_path)
    assert record.metrics_collective == simulate(tiny_config(), "again", tmp_path).metrics_collective
