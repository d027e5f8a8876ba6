"""Settings of a client's task: its table of the config, and its part of the learning-rate schedule."""

from pathlib import Path
from typing import Any

import pytest

from fl_clients import handlers
from fl_clients.fit import LocalFit
from simulations.run.simulate import simulate
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration


def test_one_schedule_covers_all_rounds_and_an_opening_is_trained_separately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, tuple[float, float]]] = []

    def noted(*args: Any, **named: Any) -> LocalFit:
        fit = LocalFit(*args, **named)
        seen.append((fit.settings.lr, fit.span))
        return fit

    monkeypatch.setattr(handlers, "LocalFit", noted)
    small = ["rounds=2", "users.collective=2", "users.target=1", "cohort=2"]
    simulate(tiny_config("method=fdlora", "local.lr=0.02", "personal.lr=0.005", *small), "x", tmp_path)
    # The opening trains with the newcomers' settings: two clients in the opening and each round, then the newcomer.
    opening, newcomer = [(0.005, (0.0, 1.0))] * 2, [(0.005, (0.0, 1.0))]
    assert seen == [*opening, *[(0.02, (0.0, 0.5))] * 2, *[(0.02, (0.5, 1.0))] * 2, *newcomer]


def test_second_moments_survive_between_a_clients_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[list[float]] = []

    def noted(*args: Any, **named: Any) -> LocalFit:
        fit = LocalFit(*args, **named)
        steps.append([float(value) for name, value in fit.moments.items() if name.endswith(".step")])
        return fit

    monkeypatch.setattr(handlers, "LocalFit", noted)
    small = ["rounds=2", "users.collective=2", "users.target=1", "cohort=2", "local.keep_moments=true"]
    # FedSA-LoRA keeps tensors of its own besides.
    simulate(tiny_config("method=fedsa-lora", "settings.rank=2", *small), "x", tmp_path)
    first, second, newcomer = steps[:2], steps[2:4], steps[4]
    assert first == [[], []]
    assert all(len(found) > 4 and set(found) == {found[0]} and found[0] >= 1 for found in second)
    assert newcomer == []
