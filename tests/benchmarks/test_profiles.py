"""When a network is paid back, and what a profile tells."""

import pytest
import torch

from benchmarks.break_even import break_even, check_same_users
from benchmarks.profile_contents import readable
from configs.errors import InputError
from configs.import_path import ROOT


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


def test_seconds_are_compared_on_the_same_users_and_with_newcomers_who_train() -> None:
    profiles, rivals = (ROOT / "results" / "reference" / name for name in ("profiles", "profiles-rivals"))
    check_same_users(profiles / "p2p-seed0", rivals / "oppu-seed0")
    with pytest.raises(InputError, match="other users than those of"):
        check_same_users(profiles / "p2p-seed1", rivals / "oppu-seed0")
    with pytest.raises(InputError, match="its newcomers take no step"):
        check_same_users(rivals / "oppu-seed0", profiles / "p2p-seed0")
