"""Which configs can be compared."""

import pytest

from simulations.experiments.comparable import difference_in_evaluation, first_difference
from tests.conftest import tiny_config


@pytest.mark.parametrize(
    "word",
    [
        "task=product_rating",
        "backbone=smollm2-135m",
        "precision=bf16",
        "personal.max_tokens=64",
        "users.collective=5",
        "robust.rule=median",
        "devices.preset=silos",
    ],
)
def test_methods_must_be_evaluated_alike(word: str) -> None:
    difference = difference_in_evaluation(tiny_config(), tiny_config(word))
    assert difference is not None
    assert difference[0] == word.partition("=")[0].split(".preset")[0].split(".rule")[0]


def test_first_difference_ignores_keys_that_do_not_affect_results() -> None:
    assert first_difference(tiny_config(), tiny_config("engine=ray", "partitions.cpus=1")) is None
    assert first_difference(tiny_config(), tiny_config("personal.epochs=3")) == "personal.epochs: 2 vs. 3"
