"""Answers that need no model stand beside every result, and a method below them is marked."""

import json
from pathlib import Path

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from fl_clients.evaluate import _usual_answer
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.tasks import TASKS
from fl_clients.lamp.user import Pair
from fl_clients.lamp.user_table import open_user
from simulations.display.tables import quality_table, rows_of
from simulations.experiments.comparable import Run
from simulations.experiments.comparison.analysis import compare_runs
from simulations.experiments.comparison.tables import comparison_tables
from simulations.report.page import write_page
from simulations.run.simulate import simulate
from tests.conftest import tiny_config, write_lamp

pytestmark = pytest.mark.integration
ARTICLE = "The mayor opens a library in {}. It was built in a year! Many people came."
SMALL = ("rounds=1", "cohort=2", "users.collective=2", "users.target=1", "evaluate.every=0")


def headline_users(folder: Path) -> Path:
    def item(place: str) -> dict[str, str]:
        return {"text": ARTICLE.format(place), "title": f"Mayor opens a library in {place}"}

    questions, golds = [], []
    for number, place in enumerate(("Lima", "Oslo", "Rome")):
        text = f"Generate a headline for the following article: {ARTICLE.format(place)}"
        profile = [item(f"{place} {year}") for year in range(2000, 2004)]
        questions.append({"id": str(number), "input": text, "profile": profile})
        golds.append({"id": str(number), "output": f"Mayor opens a library in {place}"})
    return write_lamp(folder, questions, golds, "LaMP_4")


def test_copying_the_question_and_its_first_sentence_are_scored(tmp_path: Path) -> None:
    source = headline_users(tmp_path / "lamp")
    record = simulate(tiny_config("task=news_headline", f"users.source={source}", *SMALL), "run", tmp_path)
    (answer,) = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").open()][:1]
    place = answer["gold"].rpartition(" ")[2]
    scorer = RougeScorer(["rouge1", "rougeL"])
    for name, text in (("copy", ARTICLE.format(place)), ("first_sentence", f"The mayor opens a library in {place}.")):
        scores = scorer.score(answer["gold"], text)
        assert record.baselines[name] == {key: pytest.approx(score.fmeasure) for key, score in scores.items()}
    # The first sentence has all 6 words of the headline and one more: F = 2 · 6 / (6 + 7).
    assert record.baselines["first_sentence"]["rouge1"] == pytest.approx(12 / 13)
    # The tiny backbone is random, so it is below that.
    table = quality_table(record)
    assert rows_of(table)[1][:2] == ["its first sentence", "0.923"]
    assert "the personalised answers are worse than its first sentence, which needs no model" in str(table.caption)
    page = write_page([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "its first sentence scores 0.923 in rouge1, better than the personalised answers" in page
    report, _ = compare_runs([Run.read(tmp_path / "run", "perfit")], "perfit")
    quality = comparison_tables(report)[0]
    assert [row[0] for row in rows_of(quality)] == [
        "copying the question",
        "its first sentence",
        "bare backbone",
        "perfit",
    ]
    assert rows_of(quality)[-1][1].endswith(" †")
    assert "†: worse than its first sentence, which needs no model" in str(quality.caption)


def test_tweets_are_only_copied(tmp_path: Path) -> None:
    words = ["rounds=1", "personal.epochs=1", "users.synthetic.queries=1"]
    assert set(simulate(tiny_config("task=tweet_paraphrase", *words), "tweets", tmp_path).baselines) == {"copy"}


@pytest.mark.parametrize("task", ["movie_tagging", "product_rating"])
def test_labels_and_ratings_have_the_users_usual_answer(task: str, tmp_path: Path) -> None:
    config = tiny_config(f"task={task}", "rounds=1", "personal.epochs=1")
    record = simulate(config, "run", tmp_path)
    table = build_table(config).folder
    errors, right = [], []
    for partition in range(config.users.collective, config.users.collective + config.users.target):
        user = open_user(table, partition)
        targets = [pair.target for pair in user.history]
        usual = max(reversed(targets), key=targets.count)
        right += [query.target == usual for query in user.queries]
        if task == "product_rating":
            median = np.sort([float(target) for target in targets])[len(targets) // 2]
            errors += [abs(float(query.target) - median) for query in user.queries]
    expected = np.mean(errors) if errors else np.mean(right)
    assert record.baselines["usual"][record.main_metric] == pytest.approx(expected)


def test_usual_answers_of_equal_frequency_are_the_latest() -> None:
    history = [Pair(str(n), "text", tag) for n, tag in enumerate(("comedy", "action", "comedy", "action", "sci-fi"))]
    assert _usual_answer(TASKS["movie_tagging"], history) == "action"
    assert _usual_answer(TASKS["movie_tagging"], []) == TASKS["movie_tagging"].labels[0]
    ratings = [Pair(str(n), "text", str(stars)) for n, stars in enumerate((5, 1, 5, 4, 1))]
    assert _usual_answer(TASKS["product_rating"], ratings) == "4"
