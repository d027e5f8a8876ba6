"""Which configs may stand beside each other."""

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
def test_what_must_be_alike_in_all_methods(word: str) -> None:
    difference = difference_in_evaluation(tiny_config(), tiny_config(word))
    assert difference is not None
    assert difference[0] == word.partition("=")[0].split(".preset")[0].split(".rule")[0]


def test_configs_are_the_same_but_for_what_changes_no_number() -> None:
    assert first_difference(tiny_config(), tiny_config("engine=ray", "partitions.cpus=1")) is None
    assert first_difference(tiny_config(), tiny_config("personal.epochs=3")) == "personal.epochs is 2 there, 3 here"
