"""φ and its retraction, compared with hand-derived numbers and float64 NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.shifts.shift import Shift, random_orthonormal, retract


def phi_numpy(x: np.ndarray, R: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.ndarray:
    return x + R.T @ (W @ x + b - R @ x)


def random_shift(rank: int, hidden: int, seed: int) -> Shift:
    generator = torch.Generator().manual_seed(seed)
    shift = Shift(hidden, rank)
    shift.load(
        random_orthonormal(rank, hidden, generator),
        torch.randn(rank, hidden, generator=generator),
        torch.randn(rank, generator=generator),
    )
    return shift


def test_phi_by_hand() -> None:
    # d=2, r=1: R picks the first coordinate, W the second, b adds 5: φ(x) = (x1 + (x2 + 5 − x1), x2) = (x2 + 5, x2).
    shift = Shift(2, 1)
    shift.load(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([5.0]))
    torch.testing.assert_close(shift(torch.tensor([[3.0, 7.0]])), torch.tensor([[12.0, 7.0]]))


@given(rank=st.integers(1, 6), seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_phi_equals_float64_numpy(rank: int, seed: int) -> None:
    shift = random_shift(rank, 8, seed)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed + 1))
    R, W, b = (value.detach().double().numpy() for value in (shift.R, shift.W, shift.b))
    expected = np.stack([phi_numpy(row, R, W, b) for row in x.double().numpy()])
    np.testing.assert_allclose(shift(x).detach().numpy(), expected, atol=1e-4, rtol=1e-4)


def test_phi_is_the_identity_at_the_start() -> None:
    shift = random_shift(3, 8, 0)
    shift.load(shift.R.detach(), shift.R.detach(), torch.zeros(3))
    x = torch.randn(5, 8)
    torch.testing.assert_close(shift(x), x, rtol=0, atol=0)


def test_retract_by_hand() -> None:
    # R̃ = 2·e1, so S = 2 and R = e1. The function of the arguments: x + 2e1((W̃ − 2e1)x + b̃) with W̃ = (3, 1), b̃ = 4:
    # x1 gains 2(3x1 + x2 − 2x1 + 4) = 2x1 + 2x2 + 8. So W − R must be (2, 2), W = (3, 2), b = 8.
    R, W, b = retract(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 1.0]]), torch.tensor([4.0]))
    torch.testing.assert_close(R, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(W, torch.tensor([[3.0, 2.0]]))
    torch.testing.assert_close(b, torch.tensor([8.0]))


@given(rank=st.integers(1, 8), seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_retraction_gives_orthonormal_rows_and_the_same_function(rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    R = random_orthonormal(rank, 12, generator) + 0.1 * torch.randn(rank, 12, generator=generator)
    W, b = torch.randn(rank, 12, generator=generator), torch.randn(rank, generator=generator)
    after = retract(R, W, b)
    assert (after[0] @ after[0].T - torch.eye(rank)).abs().max() <= 1e-5
    x = torch.randn(12, generator=generator)
    before = phi_numpy(*(value.double().numpy() for value in (x, R, W, b)))
    np.testing.assert_allclose(phi_numpy(*(value.double().numpy() for value in (x, *after))), before, atol=1e-5)


def test_r_is_row_orthonormal_after_every_local_step() -> None:
    shift = random_shift(4, 16, 0)
    optimizer = torch.optim.AdamW(shift.parameters(), lr=0.1)
    x, target = torch.randn(32, 16), torch.randn(32, 16)
    for _ in range(10):
        optimizer.zero_grad()
        (shift(x) - target).square().mean().backward()
        optimizer.step()
        assert (shift.R @ shift.R.T - torch.eye(4)).abs().max() > 1e-3  # the step leaves the manifold
        shift.retract()
        assert (shift.R @ shift.R.T - torch.eye(4)).abs().max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_phi_keeps_the_streams_number_format(dtype: torch.dtype) -> None:
    assert random_shift(2, 8, 0)(torch.zeros(1, 8, dtype=dtype)).dtype == dtype


def test_the_gradients_are_those_of_the_derivation() -> None:
    shift = random_shift(2, 5, 0)
    x = torch.randn(5, generator=torch.Generator().manual_seed(1))
    G = torch.randn(5, generator=torch.Generator().manual_seed(2))
    (shift(x) @ G).backward()
    R, D, b = shift.R.detach(), shift.D.detach(), shift.b.detach()
    assert shift.R.grad is not None
    assert shift.D.grad is not None
    torch.testing.assert_close(shift.R.grad, torch.outer(D @ x + b, G))
    torch.testing.assert_close(shift.D.grad, torch.outer(R @ G, x))
    # In terms of R and W, R's gradient would contain −∂W.
    R, W = R.clone().requires_grad_(True), (R + D).requires_grad_(True)
    ((x + R.T @ (W @ x + b - R @ x)) @ G).backward()
    assert W.grad is not None
    assert R.grad is not None
    torch.testing.assert_close(R.grad, shift.R.grad - W.grad)
