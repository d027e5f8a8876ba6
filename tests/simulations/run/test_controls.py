"""Controls for personalisation: questions on which user and crowd differ, and training on another user's history."""

import json
from pathlib import Path

import pytest

from fl_clients.lamp.select_users import build_table, differing_questions
from fl_clients.lamp.synthetic import themes
from fl_clients.lamp.synthetic.ideal_learner import ideal_answers
from fl_clients.lamp.tasks import MOVIE_TAGS
from fl_clients.lamp.user_table import open_user
from fl_server.record.schema import read_run
from simulations.display.tables import quality_table, rows_of
from simulations.experiments.compare import compare
from simulations.experiments.comparison.tables import comparison_tables
from simulations.run.simulate import simulate
from simulations.run.synthetic_users import record_oracles
from tests.conftest import TINY, tiny_config

pytestmark = pytest.mark.integration


def test_answers_may_hold_any_line_separator(tmp_path: Path) -> None:
    simulate(tiny_config("rounds=1"), "run", tmp_path)
    before = read_run(tmp_path / "run").agreement
    path = tmp_path / "run" / "predictions.jsonl"
    lines = [json.loads(line) for line in path.open(encoding="utf-8")]
    texts = [json.dumps({**line, "note": "a\u2028b\x85c"}, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    record_oracles(tmp_path / "run")
    assert read_run(tmp_path / "run").agreement == before


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
    assert shown[f"user and crowd differ: {differ.questions} questions"] == expected


def test_whoever_knows_the_crowd_only_is_wrong_where_they_differ(tmp_path: Path) -> None:
    # Without noise, the crowd's answer is right exactly where user and crowd agree.
    config = tiny_config("users.synthetic.noise=0", "users.synthetic.queries=40")
    table = build_table(config)
    differing = differing_questions(config)
    asked = [query for partition in (6, 7, 8) for query in open_user(table.folder, partition).queries]
    assert table.oracle is not None
    share = sum(query.item_id not in differing for query in asked) / len(asked)
    assert (table.oracle.personalised, table.oracle.collective) == (1, pytest.approx(share))


def test_no_more_can_be_learned_from_nothing_than_the_crowd_knows() -> None:
    for items in (0, 48):
        config = tiny_config("users.target=12", "users.synthetic.queries=50", "users.synthetic.history=48")
        users = [open_user(build_table(config).folder, partition) for partition in range(6, 18)]
        users = [user._replace(history=user.history[:items]) for user in users]
        answers = [answer for user in users for answer in ideal_answers(config, user) or []]
        golds = [query.target for user in users for query in user.queries]
        learned = sum(map(str.__eq__, answers, golds)) / len(golds)
        oracle = build_table(config).oracle
        assert oracle is not None
        if items:
            # 48 items tell most of a user's preferences, not all.
            assert oracle.collective + 0.15 < learned < oracle.personalised - 0.02
        else:
            assert learned == pytest.approx(oracle.collective, abs=0.02)


def test_a_rating_is_learned_by_its_median_and_a_style_has_no_learner() -> None:
    config = tiny_config("task=product_rating", "users.target=12", "users.synthetic.history=40")
    table = build_table(config)
    errors = []
    for user in [open_user(table.folder, partition) for partition in range(6, 18)]:
        answers = ideal_answers(config, user) or []
        errors += [abs(int(answer) - int(query.target)) for answer, query in zip(answers, user.queries, strict=True)]
    assert table.oracle is not None
    assert table.oracle.personalised < sum(errors) / len(errors) < 0.5 * table.oracle.collective
    texts = tiny_config("task=news_headline")
    assert ideal_answers(texts, open_user(build_table(texts).folder, 6)) is None


def test_texts_are_read_as_they_were_drawn() -> None:
    text = "Expect car chases, a therapist and a patient, and blood on the walls."
    assert themes.MOVIES.reader is not None
    read = [MOVIE_TAGS[index] for index in themes.MOVIES.reader.read([text])[0]]
    assert read == ["action", "psychology", "violence"]


def test_a_comparison_shows_the_controls(tmp_path: Path) -> None:
    words = ["rounds=1", "users.synthetic.queries=12", "users.synthetic.history=8"]
    report = compare(
        ["perfit", "lora-c"], None, [*TINY, *words], [0], "both", tmp_path, log=lambda _line: None, control=True
    )
    perfit, lora = report.methods
    # LoRA-C has no stage 2 to control.
    assert (perfit.exchanged is not None, lora.exchanged) == (True, None)
    control = read_run(tmp_path / "both" / "perfit-seed0-exchanged")
    assert perfit.exchanged.mean == control.metrics["accuracy"]
    assert control.oracle is not None
    assert control.oracle.learner is None
    assert list(report.bounds) == ["personalised", "learner", "collective"]
    table = rows_of(comparison_tables(report)[-1])
    assert table[0][-1] == f"{perfit.exchanged.mean:.3f}"
    assert table[1][-1] == "–"


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
