"""The three averaging rules: two clients by hand, float64 NumPy references, and invariants."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.shifts.averages import AGGREGATORS, FunctionAverage, ShiftAggregator
from strategies.shifts.common import Triple
from strategies.shifts.shift import random_orthonormal

E1, E2 = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.0, 1.0]]).double()


def random_triple(rank: int, hidden: int, seed: int) -> Triple:
    generator = torch.Generator().manual_seed(seed)
    R = random_orthonormal(rank, hidden, generator).double()
    W = R + torch.randn(rank, hidden, generator=generator, dtype=torch.float64)
    return R, W, torch.randn(rank, generator=generator, dtype=torch.float64)


def function_of(triple: Triple) -> np.ndarray:
    """[A | c] with φ(x) = x + Ax + c."""
    R, W, b = (value.double().numpy() for value in triple)
    return R.T @ np.column_stack([W - R, b])


def aggregate(
    name: str, start: torch.Tensor, clients: list[Triple], weights: list[float]
) -> tuple[Triple, dict[str, float]]:
    average = AGGREGATORS[name](start)
    for client, weight in zip(clients, weights, strict=True):
        average.add(*client, weight)
    return average.result()


def test_mean_by_hand() -> None:
    # Clients R = e1 and R = e2, weights 1 and 1: R̄ = (½, ½), |R̄| = 1/√2, so R = (1, 1)/√2 and S = 1/√2.
    # W̄ = ½((1, 2) + (3, 1)) = (2, 1.5), W̄ − R̄ = (1.5, 1), W = R + S(W̄ − R̄) = (1 + 1.5, 1 + 1)/√2 = (2.5, 2)/√2.
    # b̄ = ½(2 + 4) = 3, b = 3/√2.
    clients = [
        (E1, torch.tensor([[1.0, 2.0]]).double(), torch.tensor([2.0]).double()),
        (E2, torch.tensor([[3.0, 1.0]]).double(), torch.tensor([4.0]).double()),
    ]
    (R, W, b), figures = aggregate("mean", E1, clients, [1, 1])
    root = 2**0.5
    np.testing.assert_allclose(R, [[1 / root, 1 / root]])
    np.testing.assert_allclose(W, [[2.5 / root, 2 / root]])
    np.testing.assert_allclose(b, [3 / root])
    assert figures["consensus"] == pytest.approx(1 / root)


def test_procrustes_by_hand() -> None:
    # The second client is the first in the frame −1: aligned to R_g = e1 they are equal, so nothing is lost.
    # The plain mean of R would be 0.
    one = (E1, torch.tensor([[3.0, 2.0]]).double(), torch.tensor([4.0]).double())
    other = tuple(-value for value in one)
    (R, W, b), _ = aggregate("procrustes", E1, [one, other], [1, 3])
    np.testing.assert_allclose(R, one[0])
    np.testing.assert_allclose(W, one[1])
    np.testing.assert_allclose(b, one[2])


def test_function_by_hand() -> None:
    # Functions e1·(2, 0 | 0) and e2·(0, 1 | 0) with weights ½: M = diag(1, ½), top left singular vector e1, and
    # truncation loses ½² of 1² + ½²: a fifth. W = R + RĀ = (1, 0) + (1, 0).
    clients = [
        (E1, E1 + torch.tensor([[2.0, 0.0]]).double(), torch.zeros(1).double()),
        (E2, E2 + torch.tensor([[0.0, 1.0]]).double(), torch.zeros(1).double()),
    ]
    (R, W, b), figures = aggregate("function", E1, clients, [1, 1])
    np.testing.assert_allclose(R.abs(), [[1, 0]], atol=1e-12)
    np.testing.assert_allclose(function_of((R, W, b)), [[1, 0, 0], [0, 0, 0]], atol=1e-12)
    assert figures["lost"] == pytest.approx(0.2)


@pytest.mark.parametrize("clients", [2, 9], ids=["thin factors", "dense"])
def test_function_equals_numpy_truncated_svd(clients: int) -> None:
    triples = [random_triple(2, 10, seed) for seed in range(clients)]
    weights = [float(seed + 1) for seed in range(clients)]
    average = FunctionAverage(triples[0][0])
    for triple, weight in zip(triples, weights, strict=True):
        average.add(*triple, weight)
    result, figures = average.result()
    M = sum(weight * function_of(triple) for triple, weight in zip(triples, weights, strict=True)) / sum(weights)
    U, sigma, Vt = np.linalg.svd(M, full_matrices=False)
    np.testing.assert_allclose(function_of(result), (U[:, :2] * sigma[:2]) @ Vt[:2], atol=1e-10)
    assert figures["lost"] == pytest.approx((sigma[2:] ** 2).sum() / (sigma**2).sum())


@pytest.mark.parametrize("name", AGGREGATORS)
def test_one_client_gives_that_clients_function(name: str) -> None:
    client = random_triple(3, 10, 5)
    result, _ = aggregate(name, random_triple(3, 10, 6)[0], [client], [7.0])
    np.testing.assert_allclose(function_of(result), function_of(client), atol=1e-10)


@pytest.mark.parametrize("name", AGGREGATORS)
@given(rank=st.integers(1, 4), clients=st.integers(1, 6), seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_r_is_row_orthonormal_after_every_aggregation(name: str, rank: int, clients: int, seed: int) -> None:
    triples = [random_triple(rank, 8, seed + number) for number in range(clients)]
    (R, _, _), _ = aggregate(name, triples[0][0], triples, [1.0 + number for number in range(clients)])
    assert (R.float() @ R.float().T - torch.eye(rank)).abs().max() <= 1e-5


@pytest.mark.parametrize("name", ["procrustes", "function"])
def test_frames_do_not_matter(name: str) -> None:
    # (QR, QW, Qb) is the same function, so the average must not depend on the clients' frames.
    start = random_triple(3, 10, 0)[0]
    triples = [random_triple(3, 10, seed) for seed in (1, 2)]
    Q = random_orthonormal(3, 3, torch.Generator().manual_seed(9)).double()
    turned = [triples[0], tuple(Q @ value for value in triples[1])]
    plain, _ = aggregate(name, start, triples, [1, 2])
    other, _ = aggregate(name, start, turned, [1, 2])
    np.testing.assert_allclose(function_of(other), function_of(plain), atol=1e-6)


def test_function_average_without_change_keeps_the_global_r() -> None:
    R = random_triple(3, 10, 0)[0]
    (kept, W, b), figures = aggregate("function", R, [(R, R, torch.zeros(3).double())] * 2, [1, 1])
    np.testing.assert_allclose(kept, R)
    np.testing.assert_allclose(W, R)
    assert not b.any()
    assert figures["lost"] == 0.0


def test_function_average_of_low_rank_fills_r_from_the_global_one() -> None:
    R = random_triple(3, 10, 0)[0]
    W = R.clone()
    W[0] += 1.0
    (filled, _, _), figures = aggregate("function", R, [(R, W, torch.zeros(3).double())], [1])
    # The span does not change, so the projector onto the rows does not either.
    np.testing.assert_allclose(filled.T @ filled, R.T @ R, atol=1e-6)
    assert figures["lost"] == pytest.approx(0, abs=1e-20)


def test_aggregator_weights_by_examples_and_keeps_tensor_names() -> None:
    R = E1.float()
    shared = {"shared_x.3.R": R, "shared_x.3.W": R, "shared_x.3.b": torch.zeros(1)}
    aggregator = ShiftAggregator(shared, AGGREGATORS["mean"])
    for shift, examples in ((0.0, 1), (4.0, 3)):
        aggregator.add(0, {**shared, "shared_x.3.b": torch.tensor([shift])}, examples)
    result, _ = aggregator.result()
    assert result.keys() == shared.keys()
    assert result["shared_x.3.b"].item() == 3.0


def test_a_round_without_replies_is_refused() -> None:
    with pytest.raises(ValueError, match="without a single reply"):
        ShiftAggregator({"shared_x.3.R": E1}, AGGREGATORS["mean"]).result()
