"""Metrics from sufficient statistics equal scikit-learn's and rouge-score's on the pooled predictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, mean_squared_error

from strategies.metrics.evaluate_modules import ClassificationMetric, GenerationMetric, RatingMetric
from strategies.metrics.statistics import (
    classification_statistics,
    generation_statistics,
    metrics,
    pool,
    rating_statistics,
)

LABELS = 4
pairs = st.lists(st.tuples(st.integers(0, LABELS), st.integers(0, LABELS - 1)), min_size=1, max_size=30)


def test_accuracy_and_f1_by_hand() -> None:
    # golds 0 0 1, predictions 0 1 1: accuracy 2/3; F1 of 0: 2·1/(2+1), of 1: 2·1/(1+2): both 2/3,
    # of 2, which does not occur, 0: the mean of the three is 4/9.
    assert metrics(classification_statistics([0, 1, 1], [0, 0, 1], 3)) == pytest.approx(
        {"accuracy": 2 / 3, "f1": 4 / 9, "outside": 0.0}
    )


@given(users=st.lists(pairs, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_pooled_classification_equals_scikit_learn(users: list[list[tuple[int, int]]]) -> None:
    parts = [classification_statistics([p for p, _ in user], [g for _, g in user], LABELS) for user in users]
    predictions, golds = zip(*[pair for user in users for pair in user], strict=True)
    ours = metrics(pool(parts))
    assert ours["accuracy"] == pytest.approx(accuracy_score(golds, predictions))
    # LaMP averages over all labels of the set; a prediction outside it is not a class, but wrong for its gold label.
    everything = list(range(LABELS))
    theirs = f1_score(golds, predictions, labels=everything, average="macro", zero_division=0)
    assert ours["f1"] == pytest.approx(theirs)
    assert ours["outside"] == pytest.approx(np.mean([p == LABELS for p in predictions]))


def test_pooled_generation_equals_rouge_score() -> None:
    golds = ["the cat sat on the mat", "hello world", "nothing alike", "Ünïcödé 🙂"]
    texts = ["the cat lay on a mat", "world hello", "something else entirely", ""]
    ours = metrics(pool([generation_statistics(texts[:1], golds[:1]), generation_statistics(texts[1:], golds[1:])]))
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    for key in ("rouge1", "rougeL"):
        theirs = np.mean([scorer.score(gold, text)[key].fmeasure for gold, text in zip(golds, texts, strict=True)])
        assert ours[key] == pytest.approx(theirs)


def lamp_rating(text: str, gold: float) -> float:
    """LaMP's reading of a rating: a number, or otherwise the end of the scale farther from the gold."""
    try:
        return float(text)
    except ValueError:
        return 1.0 if abs(1 - gold) > abs(5 - gold) else 5.0


@given(
    st.lists(
        st.tuples(st.sampled_from(["1", "2", " 3", "4.0", "5", "five", "", "10", "4 stars"]), st.integers(1, 5)),
        min_size=1,
        max_size=20,
    )
)
@settings(max_examples=50, deadline=None)
def test_pooled_ratings_equal_scikit_learn_on_lamps_reading(answers: list[tuple[str, int]]) -> None:
    parts = [rating_statistics([text], [str(gold)]) for text, gold in answers]
    ours = metrics(pool(parts))
    golds = [float(gold) for _, gold in answers]
    read = [lamp_rating(text, gold) for text, gold in answers]
    assert ours["mae"] == pytest.approx(mean_absolute_error(golds, read))
    assert ours["rmse"] == pytest.approx(mean_squared_error(golds, read) ** 0.5)
    assert ours["outside"] == pytest.approx(np.mean([text in ("five", "", "4 stars") for text, _ in answers]))


def test_a_rating_that_is_not_a_finite_number_or_absurd_is_unparsed() -> None:
    assert metrics(rating_statistics(["1e200"], ["2"])) == {"mae": 3.0, "rmse": 3.0, "outside": 1.0}
    assert metrics(rating_statistics(["nan", "inf"], ["2", "5"])) == {"mae": 3.5, "rmse": 12.5**0.5, "outside": 1.0}


def test_evaluate_modules_compute_the_same() -> None:
    classification = ClassificationMetric().compute(predictions=[0, 1, 3], references=[0, 0, 1], labels=3)
    assert classification == metrics(classification_statistics([0, 1, 3], [0, 0, 1], 3))
    ratings = RatingMetric().compute(predictions=["4", "x"], references=["5", "1"])
    assert ratings == metrics(rating_statistics(["4", "x"], ["5", "1"]))
    generation = GenerationMetric().compute(predictions=["a b"], references=["a c"])
    assert generation == metrics(generation_statistics(["a b"], ["a c"]))


def test_no_queries_give_no_metrics() -> None:
    assert metrics({}) == {}
    assert metrics(generation_statistics([], [])) == {}
