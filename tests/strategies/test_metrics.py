"""Metrics from sufficient statistics equal scikit-learn's and rouge-score's on the pooled predictions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score

from strategies.metrics import (
    ClassificationMetric,
    GenerationMetric,
    classification_statistics,
    generation_statistics,
    metrics,
    pool,
)

LABELS = 4
pairs = st.lists(st.tuples(st.integers(0, LABELS), st.integers(0, LABELS - 1)), min_size=1, max_size=30)


def test_accuracy_and_f1_by_hand() -> None:
    # golds 0 0 1, predictions 0 1 1: accuracy 2/3; F1 of 0: 2·1/(2+1), of 1: 2·1/(1+2): both 2/3.
    assert metrics(classification_statistics([0, 1, 1], [0, 0, 1], 3)) == pytest.approx(
        {"accuracy": 2 / 3, "f1": 2 / 3, "outside": 0.0}
    )


@given(users=st.lists(pairs, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_pooled_classification_equals_scikit_learn(users: list[list[tuple[int, int]]]) -> None:
    parts = [classification_statistics([p for p, _ in user], [g for _, g in user], LABELS) for user in users]
    predictions, golds = zip(*[pair for user in users for pair in user], strict=True)
    ours = metrics(pool(parts))
    assert ours["accuracy"] == pytest.approx(accuracy_score(golds, predictions))
    # A prediction outside the set is no class of its own to average over, but it is wrong for its gold.
    inside = sorted((set(golds) | set(predictions)) - {LABELS})
    assert ours["f1"] == pytest.approx(f1_score(golds, predictions, labels=inside, average="macro", zero_division=0))
    assert ours["outside"] == pytest.approx(np.mean([p == LABELS for p in predictions]))


def test_pooled_generation_equals_rouge_score() -> None:
    golds = ["the cat sat on the mat", "hello world", "nothing alike", "Ünïcödé 🙂"]
    texts = ["the cat lay on a mat", "world hello", "something else entirely", ""]
    ours = metrics(pool([generation_statistics(texts[:1], golds[:1]), generation_statistics(texts[1:], golds[1:])]))
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    for key in ("rouge1", "rougeL"):
        theirs = np.mean([scorer.score(gold, text)[key].fmeasure for gold, text in zip(golds, texts, strict=True)])
        assert ours[key] == pytest.approx(theirs)


def test_evaluate_modules_compute_the_same() -> None:
    classification = ClassificationMetric().compute(predictions=[0, 1, 3], references=[0, 0, 1], labels=3)
    assert classification == metrics(classification_statistics([0, 1, 3], [0, 0, 1], 3))
    generation = GenerationMetric().compute(predictions=["a b"], references=["a c"])
    assert generation == metrics(generation_statistics(["a b"], ["a c"]))


def test_no_queries_give_no_metrics() -> None:
    assert metrics({}) == {}
    assert metrics(generation_statistics([], [])) == {}
