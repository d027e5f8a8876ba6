"""SVD directions, their sketches and the CCS loss, against numbers derived by hand and central computation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.steering.directions import begin_probes, best_probes, ccs_loss, sketch, top_directions, train_probes


def rows(count: int, layers: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(count, layers, d, generator=torch.Generator().manual_seed(seed))


def test_first_direction_by_hand() -> None:
    # HᵀH = [[10, 6], [6, 10]] has the eigenvector (1, 1)/√2 for 16. The second layer is zero.
    H = torch.tensor([[[3.0, 1.0], [0.0, 0.0]], [[1.0, 3.0], [0.0, 0.0]]])
    assert torch.allclose(top_directions(H), torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 0.0]]))


def test_direction_does_not_depend_on_the_sign_of_the_rows() -> None:
    H = rows(5, 3, 8, 0)
    assert torch.allclose(top_directions(H), top_directions(-H), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(sum), st.integers(0, 2**31))
def test_sketches_give_the_directions_of_all_states_where_the_rank_allows(counts: list[int], seed: int) -> None:
    clients = [rows(count, 2, 16, seed + number) + 1 for number, count in enumerate(counts)]
    central = top_directions(torch.cat(clients))
    federated = top_directions(torch.cat([sketch(own, 4) for own in clients]))
    assert torch.allclose(central, federated, atol=1e-5)


def test_sketch_of_more_rows_than_it_has_keeps_the_strongest() -> None:
    H = rows(9, 1, 6, 3)
    kept = sketch(H, 2)[:, 0].double()
    _, S, Vh = torch.linalg.svd(H[:, 0].double(), full_matrices=False)
    assert torch.allclose(kept.T @ kept, Vh[:2].T @ torch.diag(S[:2] ** 2) @ Vh[:2], atol=1e-5)


def test_ccs_loss_by_hand() -> None:
    # θ = (1, 0), b = 0: g(xᴾ) = σ(ln 3) = 3/4, g(xᴺ) = σ(−ln 4) = 1/5. (1/5 − 1/4)² + 1/5 = 0.2025.
    theta, b = torch.tensor([[[1.0, 0.0]]]), torch.zeros(1, 1)
    personal, neutral = torch.tensor([[[math.log(3), 7.0]]]), torch.tensor([[[-math.log(4), 7.0]]])
    assert ccs_loss(theta, b, personal, neutral).item() == pytest.approx(0.2025, abs=1e-6)


def test_probe_separates_two_kinds() -> None:
    difference = torch.zeros(8)
    difference[2] = 3.0
    personal, neutral = rows(20, 1, 8, 1) * 0.1 + difference, rows(20, 1, 8, 2) * 0.1 - difference
    theta, b = begin_probes(4, 1, 8, torch.Generator().manual_seed(0))
    before = ccs_loss(theta, b, personal, neutral)
    theta, b, losses = train_probes(theta, b, personal, neutral, 1000)
    assert (losses < before).all()
    direction, lowest = best_probes(theta, losses)
    assert lowest.item() == losses.min().item()
    assert direction[0].abs().argmax() == 2
    assert direction.norm().item() == pytest.approx(1.0, abs=1e-6)


def test_probes_of_several_layers_are_trained_apart() -> None:
    personal, neutral = rows(6, 3, 8, 1), rows(6, 3, 8, 2)
    theta, b = begin_probes(2, 3, 8, torch.Generator().manual_seed(0))
    together, _, _ = train_probes(theta, b, personal, neutral, 20)
    alone, _, _ = train_probes(theta[:, 1:2], b[:, 1:2], personal[:, 1:2], neutral[:, 1:2], 20)
    assert torch.allclose(together[:, 1:2], alone, atol=1e-6)
