"""FedSRD: what a client leaves out, and how the server puts the products together."""

import math

import pytest
import torch
from scipy.stats import kurtosis

from strategies.fedsrd import FedSrd, ProductMean, Pruning, prune, truncated
from strategies.method import Tensors, TrainRequest
from tests.strategies.test_turns import SHAPE, AddOne, Model, Q, some

SETTINGS = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "v_proj"], "blocks": [], "seed": 0}
PUBLISHED = {"prune_base": 0.85, "prune_slope": 0.1, "prune_most": 0.11}
HALF = Pruning(0.5, 0.0, 0.0)


def test_the_least_important_numbers_become_zero_and_the_sum_of_magnitudes_stays() -> None:
    # Importances |ΔA_ij|·‖B_:,i‖: 1·4, 2·4 in the first row and 3·1, 9·1 in the second; the median is 6.
    pruned = prune(torch.tensor([[1.0, -2], [3, 9]]), torch.tensor([[4.0], [1]]), HALF)
    torch.testing.assert_close(pruned, torch.tensor([[0.0, -2], [0, 9]]) * 15 / 11)
    assert torch.equal(prune(torch.zeros(2, 2), torch.ones(2, 1), HALF), torch.zeros(2, 2))


def test_a_change_that_is_not_finite_is_not_hidden() -> None:
    assert prune(torch.tensor([[1.0, torch.nan]]), torch.ones(1, 1), HALF).isnan().any()


@pytest.mark.parametrize("values", [torch.randn(400), torch.randn(400) ** 3, torch.ones(4)])
def test_the_share_left_out_follows_the_kurtosis_as_scipy_has_it(values: torch.Tensor) -> None:
    reference = float(kurtosis(values.double().numpy(), fisher=False)) if len(values) > 4 else 1.0
    assert Pruning(0.85, 0.1, 0.11).share(values.double()) == pytest.approx(
        0.85 + min(0.11, 0.1 * math.log(max(reference, 1)))
    )


def test_a_client_sends_changes_of_the_numbers_that_matter_only() -> None:
    method = FedSrd(**SETTINGS, **PUBLISHED, drop=0.8, truncate=True)
    adapter = method.client_attach(Model(), SHAPE)
    shared = some(method.server_init(SHAPE))
    trained = method.client_train(adapter, TrainRequest(1, shared, {}, AddOne(adapter)))
    for name, value in shared.items():
        changed = trained.shared[name] != value
        # 85 to 96 % are left out; as every number changes by 1, ties keep a row or a column together.
        assert 0 < changed.sum() < value.numel()
        assert (trained.shared[name] - value).abs().sum() == pytest.approx(value.numel(), rel=1e-4)


def clients() -> list[tuple[Tensors, int]]:
    generator = torch.Generator().manual_seed(1)
    sizes = {f"shared_lora.{m}.{x}": shape for m, x, shape in ((Q, "A", (2, 6)), (Q, "B", (5, 2)))}
    return [
        ({name: torch.randn(shape, generator=generator) for name, shape in sizes.items()}, examples)
        for examples in (3, 1, 2)
    ]


@pytest.mark.parametrize(("number", "letter"), [(1, "B"), (2, "A")])
def test_one_factor_takes_the_mean_product_by_least_squares(number: int, letter: str) -> None:
    (state, _), *replies = clients()
    average = ProductMean(state, number, 0.0, False, 0)
    for shared, examples in replies:
        average.add(0, shared, examples)
    tensors, figures = average.result()
    A, B = (f"shared_lora.{Q}.{x}" for x in "AB")
    mean = (replies[0][0][B] @ replies[0][0][A] + 2 * replies[1][0][B] @ replies[1][0][A]) / 3
    other = A if letter == "B" else B
    assert torch.equal(tensors[other], state[other])
    # Least squares, solved live: min ‖X A − W̄‖ or ‖B X − W̄‖.
    if letter == "B":
        expected = torch.linalg.lstsq(state[A].T, mean.T).solution.T
    else:
        expected = torch.linalg.lstsq(state[B], mean).solution
    torch.testing.assert_close(tensors[f"shared_lora.{Q}.{letter}"], expected, rtol=1e-4, atol=1e-5)
    change = mean - state[B] @ state[A]
    missing = mean - tensors[B] @ tensors[A]
    assert figures["lost"] == pytest.approx(float(missing.square().sum() / change.square().sum()), rel=1e-4)


def test_directions_that_are_only_rounding_are_not_inverted() -> None:
    (state, _), (reply, _), _ = clients()
    # Both columns of B are the same but for rounding: the part of the change beside them cannot be reached.
    B = torch.ones(5, 2) / 3
    state[f"shared_lora.{Q}.B"] = B + torch.tensor([[0.0, 3e-8]])
    average = ProductMean(state, 2, 0.0, False, 0)
    average.add(0, reply, 1)
    assert average.result()[0][f"shared_lora.{Q}.A"].abs().max() < 10


def test_the_truncated_product_is_the_nearest_of_its_rank() -> None:
    left, right = torch.randn(5, 4, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    U, sigma, Vt = torch.linalg.svd(left @ right)
    first, second = truncated(left, right, 2)
    torch.testing.assert_close(first @ second, U[:, :2] * sigma[:2] @ Vt[:2])


def test_what_the_server_leaves_out_keeps_its_bits_and_the_mean_stays() -> None:
    (state, _), (reply, _), _ = clients()
    B = f"shared_lora.{Q}.B"

    def after(seed: int, drop: float) -> torch.Tensor:
        average = ProductMean(state, 1, drop, False, seed)
        average.add(0, reply, 1)
        return average.result()[0][B]

    whole = after(0, 0.0)
    dropped = torch.stack([after(seed, 0.8) for seed in range(2000)])
    assert (dropped == state[B]).double().mean() == pytest.approx(0.8, abs=0.02)
    torch.testing.assert_close(dropped.mean(0) - state[B], whole - state[B], rtol=0.2, atol=0.05)


@pytest.mark.parametrize("change", [{"drop": 1.0}, {"prune_base": 0.95}, {"drop": -0.1}])
def test_a_share_that_leaves_nothing_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"settings.{next(iter(change))}: leaves out"):
        FedSrd(**SETTINGS, **PUBLISHED | {"drop": 0.8} | change, truncate=True)
