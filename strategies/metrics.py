"""How predictions are judged: sufficient statistics that clients return, and exact pooled metrics from them.

Statistics are named lists of numbers that add up over queries and users; a metric is a function of the sums. So
the server pools without ever seeing a text. Tests hold the metrics equal to scikit-learn's and rouge-score's on
the pooled predictions.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from rouge_score.rouge_scorer import RougeScorer

Statistics = dict[str, list[float]]

_INFO: dict[str, Any] = {
    "description": "LaMP metric from sufficient statistics",
    "citation": "arXiv:2304.11406",
}


def classification_statistics(predictions: Sequence[int], references: Sequence[int], labels: int) -> Statistics:
    """Count a confusion matrix.

    Args:
        predictions: Label indices; `labels` stands for a prediction outside the label set.
        references: Label indices.
        labels: L, the size of the label set.

    Returns:
        `confusion`: L×(L+1) counts, row by row; rows are references, the last column is outside the set.
    """
    confusion = np.zeros((labels, labels + 1))
    np.add.at(confusion, (np.asarray(references, int), np.asarray(predictions, int)), 1.0)
    return {"confusion": confusion.ravel().tolist()}


def generation_statistics(predictions: Iterable[str], references: Iterable[str]) -> Statistics:
    """Sum ROUGE-1 and ROUGE-L F-measures (no stemming, as LaMP) over pairs of texts.

    Returns:
        `rouge1` and `rougeL`: sum over pairs; `count`: number of pairs.
    """
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    scores = [scorer.score(gold, text) for text, gold in zip(predictions, references, strict=True)]
    sums = {key: [sum(float(score[key].fmeasure) for score in scores)] for key in ("rouge1", "rougeL")}
    return {**sums, "count": [float(len(scores))]}


def pool(parts: Iterable[Statistics]) -> Statistics:
    """Add statistics up."""
    total: dict[str, np.ndarray] = {}
    for part in parts:
        for key, values in part.items():
            total[key] = total[key] + np.asarray(values) if key in total else np.asarray(values, float)
    return {key: values.tolist() for key, values in total.items()}


def metrics(statistics: Statistics) -> dict[str, float]:
    """Compute the metrics that the statistics allow; none for empty statistics.

    Returns:
        For a confusion matrix `accuracy`, `f1` (macro, over the labels that occur in references or predictions;
        outside the label set is no label of its own) and `outside` (share predicted outside the label set, counted
        as wrong); for generation `rouge1`, `rougeL`.
    """
    if "confusion" in statistics:
        return _classification_metrics(np.asarray(statistics["confusion"]))
    if "count" in statistics and statistics["count"][0]:
        count = statistics["count"][0]
        return {key: statistics[key][0] / count for key in ("rouge1", "rougeL")}
    return {}


def _classification_metrics(flat: np.ndarray) -> dict[str, float]:
    labels = int((np.sqrt(1 + 4 * len(flat)) - 1) / 2)
    confusion = flat.reshape(labels, labels + 1)
    count = confusion.sum()
    if not count:
        return {}
    hits = np.diag(confusion)
    seen = confusion.sum(axis=1) + confusion[:, :labels].sum(axis=0)
    f1 = np.divide(2 * hits, seen, out=np.zeros(labels), where=seen > 0)
    return {
        "accuracy": float(hits.sum() / count),
        "f1": float(f1[seen > 0].mean()),
        "outside": float(confusion[:, labels].sum() / count),
    }


class ClassificationMetric(evaluate.Metric):
    """Accuracy and macro-F1 as a Hugging Face `evaluate` module; predictions and references are label indices."""

    def _info(self) -> evaluate.MetricInfo:
        integers = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(features=integers, **_INFO)

    def _compute(self, predictions: list[int], references: list[int], labels: int) -> dict[str, float]:
        return metrics(classification_statistics(predictions, references, labels))


class GenerationMetric(evaluate.Metric):
    """ROUGE-1 and ROUGE-L as a Hugging Face `evaluate` module; predictions and references are texts."""

    def _info(self) -> evaluate.MetricInfo:
        texts = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(features=texts, **_INFO)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return metrics(generation_statistics(predictions, references))
