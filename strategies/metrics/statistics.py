"""Scoring of predictions: sufficient statistics that clients return, and exact pooled metrics from them.

Statistics are named lists of numbers that add up over queries and users; a metric is a function of the sums. The
server can therefore pool metrics without seeing any text. Tests check that the metrics equal those of scikit-learn and
rouge-score on the pooled predictions.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from strategies.metrics.points import Baseline, EvaluationPoint
from strategies.metrics.words import UnicodeTokenizer

Statistics = dict[str, list[float]]

_FARTHEST = 1e6
"""Errors beyond this are no ratings: their squares would drown all others, or not be finite."""


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


def rating_statistics(predictions: Iterable[str], references: Iterable[str]) -> Statistics:
    """Sum absolute and squared errors of ratings from 1 to 5.

    As in LaMP's evaluation, a prediction that is not a number counts as the end of the scale farther from the gold.
    Such predictions are also counted separately.

    Args:
        predictions: Strings; a rating is any string that Python reads as a number, at most a million from the gold.
        references: Gold ratings, "1" to "5".

    Returns:
        `absolute_error`, `squared_error`: sums over pairs; `unparsed`, `count`: numbers of pairs.
    """
    errors: list[float] = []
    unparsed = 0
    for text, gold in zip(predictions, references, strict=True):
        rating = float(gold)
        try:
            error = abs(float(text) - rating)
        except ValueError:
            error = math.nan
        if not error <= _FARTHEST:
            error = max(abs(rating - 1), abs(rating - 5))
            unparsed += 1
        errors.append(error)
    squares = sum(error**2 for error in errors)
    sums = {"absolute_error": sum(errors), "squared_error": squares, "unparsed": unparsed, "count": len(errors)}
    return {key: [float(value)] for key, value in sums.items()}


def generation_statistics(
    predictions: Iterable[str], references: Iterable[str], words: Literal["latin", "unicode"] = "latin"
) -> Statistics:
    """Sum ROUGE-1 and ROUGE-L F-measures (no stemming, as in LaMP) over pairs of texts.

    Args:
        predictions: Answers.
        references: Golds.
        words: What counts as a word. `latin`: a to z and digits, as in LaMP; a text in another script has none.
            `unicode`: see `UnicodeTokenizer`.

    Returns:
        `rouge1` and `rougeL`: sum over pairs; `count`: number of pairs.
    """
    from rouge_score.rouge_scorer import RougeScorer  # takes a second (nltk); only text generation needs it

    tokenizer = UnicodeTokenizer() if words == "unicode" else None
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False, tokenizer=tokenizer)
    scores = [scorer.score(gold, text) for text, gold in zip(predictions, references, strict=True)]
    sums = {key: [sum(float(score[key].fmeasure) for score in scores)] for key in ("rouge1", "rougeL")}
    return {**sums, "count": [float(len(scores))]}


_SUMS = ({"absolute_error", "squared_error", "unparsed", "count"}, {"rouge1", "rougeL", "count"})


def check_statistics(statistics: Statistics) -> None:
    """Refuse statistics from which no metrics could be computed.

    Args:
        statistics: Named `<point>.<sum>`, each a list of numbers.

    Raises:
        ValueError: Names the first that is missing, unknown or of another length.
    """
    by_point: dict[str, dict[str, int]] = {}
    for key, values in statistics.items():
        point, _, name = key.partition(".")
        by_point.setdefault(point, {})[name] = len(values)
    known = {*map(str, EvaluationPoint), *map(str, Baseline)}
    for point, sizes in by_point.items():
        labels = math.isqrt(sizes.get("confusion", 0))
        square = sizes.keys() == {"confusion"} and labels > 0 and sizes["confusion"] == labels * (labels + 1)
        sums = sizes.keys() in _SUMS and set(sizes.values()) == {1}
        if point not in known or not (square or sums):
            raise ValueError(f"statistics of {point!r}: {sizes} are not those of a task")


def pool(parts: Iterable[Statistics]) -> Statistics:
    """Add up statistics."""
    total: dict[str, np.ndarray] = {}
    for part in parts:
        for key, values in part.items():
            total[key] = total[key] + np.asarray(values) if key in total else np.asarray(values, float)
    return {key: values.tolist() for key, values in total.items()}


LOWER_IS_BETTER = frozenset({"mae", "rmse"})
"""Metrics for which lower is better."""


def is_worse(score: float, other: float, metric: str) -> bool:
    """Tell whether a score is worse than another in a metric."""
    return score > other if metric in LOWER_IS_BETTER else score < other


def metrics(statistics: Statistics) -> dict[str, float]:
    """Compute the metrics that the statistics allow, the main one first; none for empty statistics.

    Returns:
        For a confusion matrix `accuracy`, `f1` (macro over all L labels as in LaMP: a label that occurs neither in
        references nor in predictions counts as 0) and `outside`; for ratings `mae`, `rmse` and `outside`; for texts
        `rouge1` and `rougeL`. `outside` is the share of predictions outside the label set, which count as wrong, or of
        predictions that are not a number.
    """
    if "confusion" in statistics:
        return _classification_metrics(np.asarray(statistics["confusion"]))
    count = statistics.get("count", [0.0])[0]
    if not count:
        return {}
    if "rouge1" in statistics:
        return {key: statistics[key][0] / count for key in ("rouge1", "rougeL")}
    return {
        "mae": statistics["absolute_error"][0] / count,
        "rmse": math.sqrt(statistics["squared_error"][0] / count),
        "outside": statistics["unparsed"][0] / count,
    }


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
        "f1": float(f1.mean()),
        "outside": float(confusion[:, labels].sum() / count),
    }


def spread_over_users(users: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation, 10th and 90th percentile of each metric over the users that have it."""
    spread: dict[str, dict[str, float]] = {}
    for key in sorted({key for user in users for key in user}):
        values = np.array([user[key] for user in users if key in user])
        low, high = np.percentile(values, [10, 90])
        spread[key] = {
            "mean": float(values.mean()),
            "std": float(values.std()),
            "p10": float(low),
            "p90": float(high),
        }
    return spread
