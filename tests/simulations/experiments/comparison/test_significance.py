"""A difference counts only if it holds over users and over seeds, after correction for the tests of its table."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from simulations.experiments.comparison import significance
from simulations.experiments.comparison.significance import holm, paired_test


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes one method's runs from the users' scores by seed."""

    def make(scores: dict[int, dict[str, float]], source: str = "synthetic") -> list[Any]:
        users = SimpleNamespace(source=source)
        return [
            SimpleNamespace(record=SimpleNamespace(seed=seed, users=users), own=own) for seed, own in scores.items()
        ]

    monkeypatch.setattr(significance, "per_user", lambda run, _round: run.own)
    return make


def shifted(by_seed: list[float], spread: float = 0.0, users: int = 40) -> dict[int, dict[str, float]]:
    """Scores whose mean in seed s is by_seed[s]; half of the users are `spread` above it, half below."""
    return {s: {str(u): mean + spread * (-1) ** u for u in range(users)} for s, mean in enumerate(by_seed)}


def test_seeds_that_disagree_make_a_difference_noise_however_sure_their_users_are(runs: Any) -> None:
    found = paired_test(runs(shifted([0.05, 0.10, 0.15])), runs(shifted([0.0, 0.0, 0.0])))
    # All 120 users agree. Over seeds: t = 0.1 / (0.05 / √3) = 3.464 with 2 degrees of freedom, so p = 0.074, and
    # the interval is 0.1 ± 4.303 · 0.05 / √3.
    assert found.p_users < 0.001
    assert found.p_seeds == pytest.approx(0.0742, abs=1e-4)
    assert found.p_seeds == pytest.approx(stats.ttest_rel([0.05, 0.10, 0.15], [0, 0, 0]).pvalue)
    assert (found.p_value, found.within_noise) == (found.p_seeds, True)
    assert found.interval == pytest.approx((0.1 - 0.1242, 0.1 + 0.1242), abs=1e-4)


def test_users_that_disagree_make_a_difference_noise_however_alike_the_seeds_are(runs: Any) -> None:
    found = paired_test(runs(shifted([0.1, 0.1, 0.1], spread=1.0, users=10)), runs(shifted([0.0] * 3, users=10)))
    assert found.p_seeds == 0
    assert found.p_value == found.p_users > 0.4
    assert found.within_noise
    # 30 users with a standard deviation of 1: the bootstrap's standard error is 1 / √30 = 0.18.
    assert found.interval == pytest.approx((0.1 - 1.96 * 0.1826, 0.1 + 1.96 * 0.1826), abs=0.03)


def test_a_difference_over_both_is_one(runs: Any) -> None:
    found = paired_test(runs(shifted([0.10, 0.11, 0.12], spread=0.05)), runs(shifted([0.0] * 3)))
    assert not found.within_noise
    assert found.p_value == max(found.p_users, found.p_seeds)


def test_one_seed_is_tested_over_users_only(runs: Any) -> None:
    found = paired_test(runs(shifted([0.1], spread=0.05)), runs(shifted([0.0])))
    assert (found.p_seeds, found.p_value) == (None, found.p_users)


def test_equal_runs_do_not_differ(runs: Any) -> None:
    found = paired_test(runs(shifted([0.1, 0.1])), runs(shifted([0.1, 0.1])))
    assert (found.p_users, found.p_seeds, found.p_value, found.interval) == (1, 1, 1, (0, 0))


def test_holm_multiplies_by_the_number_of_tests_left(runs: Any) -> None:
    test = paired_test(runs(shifted([0.1, 0.1])), runs(shifted([0.0, 0.0])))
    tests = [test.model_copy(update={"p_value": p}) for p in (0.01, 0.04, 0.03, 0.8)]
    # In order: 0.01 · 4, 0.03 · 3, 0.04 · 2 but at least as large as the one before, 0.8 · 1.
    adjusted = holm(tests)
    assert [each.p_adjusted for each in adjusted] == pytest.approx([0.04, 0.09, 0.09, 0.8])
    assert [each.within_noise for each in adjusted] == [False, True, True, True]
    assert holm([]) == []


def test_false_differences_are_as_rare_as_promised(runs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "_RESAMPLES", 999)  # of 200 comparisons
    # Trainings and users both vary, and the methods do not differ: at most 5 % of comparisons may find something.
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        training = generator.normal(0, 0.05, 3)
        one = {s: dict(enumerate(training[s] + generator.normal(0, 0.2, 20))) for s in range(3)}
        found += not paired_test(runs(one), runs({s: dict.fromkeys(range(20), 0.0) for s in range(3)})).within_noise
    assert found <= 0.05 * 200
