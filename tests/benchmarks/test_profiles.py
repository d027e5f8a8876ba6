"""When a network is paid back, and what a profile tells."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.break_even import break_even
from benchmarks.profile_contents import readable
from benchmarks.profile_controls import gains, summary
from configs.errors import InputError
from simulations.run.simulate import simulate
from tests.conftest import tiny_config


@pytest.mark.parametrize(
    ("newcomer", "expected"),
    # 100 s more than the other's stage 1, 160 s in all; 4 s saved with every newcomer.
    [
        (1.0, {"with the other's stage 1": 25, "without it": 40}),
        (5.0, dict.fromkeys(["with the other's stage 1", "without it"])),
    ],
)
def test_the_network_is_paid_back_by_what_newcomers_save(newcomer: float, expected: dict[str, int | None]) -> None:
    ours, theirs = {"stage 1": 160.0, "a newcomer": newcomer}, {"stage 1": 60.0, "a newcomer": 5.0}
    assert break_even(ours, theirs) == expected


def test_a_taste_that_profiles_tell_is_read_on_others_and_noise_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    profiles = torch.randn(300, 6, generator=generator)
    worths = (profiles @ torch.randn(6, 4, generator=generator)).double()
    assert readable(profiles, worths, 200, 6) > 0.99
    noise = torch.randn(300, 4, generator=generator).double()
    assert readable(profiles, noise, 200, 6) < 0.02


@pytest.mark.integration
def test_the_gain_of_own_profiles_is_that_of_the_runs_figures(tmp_path: Path) -> None:
    small = ("method=p2p", "settings.latent=8", "settings.head=4", "settings.components=1")
    record = simulate(tiny_config(*small), "p2p", tmp_path)
    for name, differences in gains(tmp_path / "p2p", "accuracy").items():
        assert len(differences) == 3
        # Users have equally many questions.
        expected = record.metrics["accuracy"] - record.controls[name]["accuracy"]
        assert differences.mean() == pytest.approx(expected)
    simulate(tiny_config("method=perfit"), "perfit", tmp_path)
    with pytest.raises(InputError, match="this run has no controls"):
        gains(tmp_path / "perfit", "accuracy")


def test_a_gain_of_all_users_is_told_from_none() -> None:
    assert "p = 0.000" in summary(np.full(40, 0.1) + np.linspace(-0.05, 0.05, 40))
    assert "+0.000 (" in summary(np.tile([0.1, -0.1], 20))
