"""The metrics as Hugging Face `evaluate` modules, for scoring your own predictions.

Separate from `statistics`, because importing `evaluate` takes seconds that simulated processes should not spend.
"""

from typing import Any

import datasets
import evaluate

from strategies.metrics.statistics import classification_statistics, generation_statistics, metrics, rating_statistics

_INFO: dict[str, Any] = {
    "description": "LaMP metric from sufficient statistics",
    "citation": "arXiv:2304.11406",
}
_TEXTS = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})


class ClassificationMetric(evaluate.Metric):
    """Accuracy and macro-F1 as a Hugging Face `evaluate` module; predictions and references are label indices."""

    def _info(self) -> evaluate.MetricInfo:
        integers = datasets.Features({"predictions": datasets.Value("int32"), "references": datasets.Value("int32")})
        return evaluate.MetricInfo(features=integers, **_INFO)

    def _compute(self, predictions: list[int], references: list[int], labels: int) -> dict[str, float]:
        return metrics(classification_statistics(predictions, references, labels))


class RatingMetric(evaluate.Metric):
    """MAE and RMSE as a Hugging Face `evaluate` module; predictions and references are strings."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(features=_TEXTS, **_INFO)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return metrics(rating_statistics(predictions, references))


class GenerationMetric(evaluate.Metric):
    """ROUGE-1 and ROUGE-L as a Hugging Face `evaluate` module; predictions and references are strings."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(features=_TEXTS, **_INFO)

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return metrics(generation_statistics(predictions, references))
