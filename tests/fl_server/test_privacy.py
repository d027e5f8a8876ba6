"""ε of a run against dp-accounting called directly and against closed forms, and the target that it keeps."""

import math
from pathlib import Path

import dp_accounting as dp
import pytest
import torch
from dp_accounting import rdp

from configs.errors import InputError
from configs.load import load_config
from configs.privacy import PrivacyConfig
from fl_server.privacy import Budget, BudgetSpent, RunPrivacy, epsilon_of, most_turns
from strategies.aggregation.robust import Update
from strategies.loading import load_method
from strategies.method import Method

DELTA = 1e-5


def test_without_sampling_epsilon_is_the_gaussian_mechanisms_closed_form() -> None:
    # Rényi divergence of order α after T rounds: T·α/(2σ²) with σ = z/2 (Mironov 2017), then Canonne, Kamath and
    # Steinke 2020, proposition 12.
    rounds, sigma = 7, 3.0 / 2
    orders = rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS

    def bound(order: float) -> float:
        divergence = rounds * order / (2 * sigma**2)
        return divergence + math.log1p(-1 / order) - math.log(DELTA * order) / (order - 1)

    assert epsilon_of(3.0, rounds, 0, DELTA, None) == pytest.approx(min(map(bound, orders)), rel=1e-6)


def test_with_sampling_epsilon_is_dp_accountings_for_samples_without_replacement() -> None:
    accountant = rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    accountant.compose(dp.SampledWithoutReplacementDpEvent(100, 8, dp.GaussianDpEvent(0.6)), 12)
    accountant.compose(dp.GaussianDpEvent(0.6), 1)
    assert epsilon_of(1.2, 12, 1, DELTA, (100, 8)) == pytest.approx(accountant.get_epsilon(DELTA))


def test_sampling_costs_less_and_without_noise_there_is_no_finite_epsilon() -> None:
    drawn = epsilon_of(2.0, 10, 0, DELTA, (50, 5))
    everybody = epsilon_of(2.0, 10, 0, DELTA, None)
    assert drawn is not None
    assert everybody is not None
    assert drawn < everybody
    assert epsilon_of(0.0, 10, 0, DELTA, None) is None
    assert epsilon_of(0.0, 0, 0, DELTA, None) == 0.0


def test_the_count_of_short_updates_and_the_sum_together_cost_what_z_costs() -> None:
    config = PrivacyConfig(kind="central", noise_multiplier=1.0, clip_quantile=0.5)
    for cohort in (4, 40, 400):
        change, count = config.split(1.0, cohort)
        # Replacing one user moves the sum by 2C and the count by 1: (2/z_Δ)² + (1/σ_b)² = (2/z)².
        assert (2 / change) ** 2 + (1 / count) ** 2 == pytest.approx(4.0)
        assert 1.0 < change <= 1.155
    assert PrivacyConfig(kind="central", noise_multiplier=1.0).split(1.0, 40) == (1.0, 0.0)


def test_the_least_noise_for_a_target_is_found() -> None:
    budget = Budget(PrivacyConfig(kind="central", target_epsilon=3.0), range(9), 0, (100, 8))
    multiplier = budget.multiplier()
    spent = budget.epsilon(multiplier, 8)
    assert spent is not None
    assert 2.98 < spent <= 3.0


def test_a_target_that_no_noise_keeps_is_refused() -> None:
    budget = Budget(PrivacyConfig(kind="central", target_epsilon=1e-3), range(9), 0, None)
    with pytest.raises(InputError, match=r"target_epsilon=0\.001: 8 rounds cannot keep to it"):
        budget.multiplier()


def perfit() -> Method:
    config = load_config(None, ["backbone=tiny", "sites=[1]"])
    return load_method(config.method, config.method_values(), config.settings, [])


def lora() -> Method:
    config = load_config(None, ["backbone=tiny", "method=lora-c"])
    return load_method(config.method, config.method_values(), config.settings, [])


def test_a_run_ends_before_the_round_that_would_exceed_its_target() -> None:
    words = ["privacy.kind=central", "privacy.noise_multiplier=2", "privacy.target_epsilon=6", "cohort=8"]
    config = load_config(None, [*words, "users.collective=100", "rounds=400"])
    privacy = RunPrivacy(config, perfit(), 100, range(401))
    last = privacy.last_round
    within, beyond = (epsilon_of(2.0, number, 0, DELTA, (100, 8)) for number in (last, last + 1))
    assert within is not None
    assert beyond is not None
    assert within <= 6.0 < beyond
    assert privacy.spent(last).epsilon == within


def test_a_round_without_anybody_is_nobodys_turn() -> None:
    assert most_turns([[], [3, 1], [], [3]]) == [0, 0, 1, 1, 2]


def test_simulated_devices_that_come_and_go_gain_nothing_from_sampling() -> None:
    words = ["privacy.kind=central", "privacy.noise_multiplier=2", "cohort=8", "users.collective=100"]
    config = load_config(None, [*words, "devices.preset=phones"])
    assert RunPrivacy(config, perfit(), 100, range(5)).spent(4).epsilon == epsilon_of(2.0, 4, 0, DELTA, None)


def test_a_draw_that_others_know_gains_nothing_from_sampling() -> None:
    words = ["privacy.kind=central", "privacy.noise_multiplier=2", "cohort=8", "users.collective=100"]
    privacy = RunPrivacy(load_config(None, words), perfit(), 100, range(5), secret=1 << 255)
    assert privacy.spent(4).epsilon == epsilon_of(2.0, 4, 0, DELTA, None)


def pooled(privacy: RunPrivacy, number: int, value: float) -> float:
    pool = privacy.pool_of(number, {"shared_a": torch.zeros(3)}, 8)
    updates = [Update(0, {"shared_a": torch.full((3,), value)}, 1)]
    return float(pool(updates)["shared_a"][0])


def test_a_round_repeated_with_other_updates_has_other_noise_and_is_counted(tmp_path: Path) -> None:
    words = ["privacy.kind=central", "privacy.noise_multiplier=2", "cohort=8", "users.collective=100"]
    method = lora()

    def resumed() -> RunPrivacy:
        return RunPrivacy(load_config(None, words), method, 100, range(5), releases=tmp_path / ".releases")

    first = pooled(resumed(), 1, 0.1)
    assert pooled(resumed(), 1, 0.1) == first
    assert resumed().spent(1).epsilon == epsilon_of(2.0, 1, 0, DELTA, (100, 8))
    # With the same noise, the difference would be that of the updates: 0.1/8.
    assert abs(pooled(resumed(), 1, 0.2) - first - 0.1 / 8) > 1e-3
    # The same users twice: less noise in one draw, not two draws.
    twice = resumed().spent(3).epsilon
    assert twice == epsilon_of(2.0, 2, 0, DELTA, (100, 8), again=(2,))
    accountant = rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    accountant.compose(dp.SampledWithoutReplacementDpEvent(100, 8, dp.GaussianDpEvent(2.0 / 2 / math.sqrt(2))))
    accountant.compose(dp.SampledWithoutReplacementDpEvent(100, 8, dp.GaussianDpEvent(2.0 / 2)), 2)
    assert twice == pytest.approx(accountant.get_epsilon(DELTA))
    separate = epsilon_of(2.0, 4, 0, DELTA, (100, 8))
    assert twice is not None
    assert separate is not None
    assert twice > separate


def test_a_second_release_that_the_target_does_not_allow_is_not_made(tmp_path: Path) -> None:
    words = ["privacy.kind=central", "privacy.target_epsilon=2", "cohort=8", "users.collective=100"]
    method, file = lora(), tmp_path / ".releases"
    privacy = RunPrivacy(load_config(None, words), method, 100, range(5), releases=file)
    pooled(privacy, 3, 0.1)
    noted = file.read_text()
    assert privacy.last_round == 4
    pooled(privacy, 3, 0.1)
    with pytest.raises(BudgetSpent):
        pooled(privacy, 3, 0.2)
    assert file.read_text() == noted
    # With room for it, the round is repeated, and stage 1 ends earlier.
    loose = load_config(None, [*words[:1], "privacy.target_epsilon=15", "privacy.noise_multiplier=1", *words[2:]])
    privacy = RunPrivacy(loose, method, 100, range(9), releases=tmp_path / "other")
    last = privacy.last_round
    for value in (0.1, 0.2):
        pooled(privacy, 1, value)
    assert 0 < privacy.last_round < last
    epsilon = privacy.spent(privacy.last_round).epsilon
    assert epsilon is not None
    assert epsilon <= 15


def test_with_local_noise_all_users_count_alike_and_nobodys_step_is_compared() -> None:
    words = ["privacy.kind=local", "privacy.noise_multiplier=1", "cohort=4", "users.collective=100"]
    privacy = RunPrivacy(load_config(None, words), lora(), 100, range(5))
    pool = privacy.pool_of(1, {"shared_a": torch.zeros(1)}, 4)
    updates = [Update(0, {"shared_a": torch.ones(1)}, 1), Update(1, {"shared_a": torch.full((1,), 3.0)}, 9)]
    assert pool(updates)["shared_a"].tolist() == [1.0]


def test_secrets_that_agree_in_their_lowest_bits_give_other_noise() -> None:
    words = ["privacy.kind=central", "privacy.noise_multiplier=2", "cohort=8", "users.collective=100"]
    method = lora()
    values = {
        pooled(RunPrivacy(load_config(None, words), method, 100, range(5), secret=secret), 1, 0.1)
        for secret in (5, 5 + 2**32, 5 + 2**64, 5 + 2**200)
    }
    assert len(values) == 4


def test_a_method_with_an_opening_only_is_accounted_for() -> None:
    words = ["privacy.kind=central", "privacy.noise_multiplier=2", "users.collective=100", "method=stylevector"]
    config = load_config(None, words)
    method = load_method(config.method, config.method_values(), {**config.settings, "federated": True}, [])
    privacy = RunPrivacy(config, method, 100, range(1))
    assert privacy.spent(0).epsilon == epsilon_of(2.0, 0, 1, DELTA, None)
    tight = load_config(None, [*words, "privacy.target_epsilon=0.1"])
    with pytest.raises(InputError, match="the first round would exceed it"):
        RunPrivacy(tight, method, 100, range(1))


def test_local_noise_counts_the_turns_of_the_user_who_was_drawn_most_often() -> None:
    assert most_turns([[0, 1], [1, 2], [3, 0], [1, 4]]) == [0, 1, 2, 2, 3]
    config = load_config(None, ["privacy.kind=local", "privacy.noise_multiplier=2", "users.collective=100"])
    privacy = RunPrivacy(config, perfit(), 100, [0, 1, 2, 2, 3])
    assert privacy.spent(4).epsilon == epsilon_of(2.0, 3, 0, DELTA, None)
