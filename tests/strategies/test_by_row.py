"""Parameters with a value for each row of a batch."""

import pytest
import torch
from torch import nn

from strategies.by_row import each_row
from strategies.shifts.shift import Shift


def test_a_linear_module_multiplies_each_row_by_its_own_weight() -> None:
    linear = nn.Linear(2, 1, bias=False)
    own = linear.weight.detach().clone()
    inputs = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])  # two rows of one token each
    with each_row([linear], {linear.weight: torch.tensor([[[10.0, 1.0]], [[0.0, 5.0]]])}):
        assert linear(inputs).tolist() == [[[12.0]], [[20.0]]]
    assert torch.equal(linear(inputs), inputs @ own.T)


def test_rows_that_belong_to_one_another_share_a_weight() -> None:
    linear = nn.Linear(1, 1, bias=False)
    with each_row([linear], {linear.weight: torch.tensor([[[2.0]], [[3.0]]])}):
        assert linear(torch.ones(4, 1, 1)).flatten().tolist() == [2.0, 2.0, 3.0, 3.0]


def test_a_shift_acts_on_each_row_as_one_with_these_values_would() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 4, 8, generator=generator)
    shared, alone = Shift(8, 2), Shift(8, 2)
    values = {p: torch.randn(3, *p.shape, generator=generator) for p in (shared.R, shared.D, shared.b)}
    with each_row([shared], values):
        together = shared(inputs)
    for row in range(3):
        for parameter, value in zip((alone.R, alone.D, alone.b), values.values(), strict=True):
            parameter.data = value[row]
        torch.testing.assert_close(together[row], alone(inputs[row : row + 1])[0])
    # Back in their order: optimisers keep states by it.
    assert [name for name, _ in shared.named_parameters()] == ["R", "D", "b"]


def test_a_gradient_reaches_the_client_of_each_row() -> None:
    linear = nn.Linear(1, 1, bias=False)
    clients = torch.tensor([[[2.0]], [[3.0]]]).requires_grad_()
    rows = torch.tensor([0, 1, 1])
    with each_row([linear], {linear.weight: clients[rows]}):
        linear(torch.tensor([[[1.0]], [[10.0]], [[100.0]]])).sum().backward()
    assert clients.grad is not None
    assert clients.grad.flatten().tolist() == [1.0, 110.0]
    assert linear.weight.grad is None


def test_an_input_whose_rows_are_not_the_batchs_is_refused() -> None:
    linear = nn.Linear(2, 1, bias=False)
    with (
        each_row([linear], {linear.weight: torch.ones(2, 1, 2)}),
        pytest.raises(ValueError, match="got 5 rows, and has weights for the 2 of the batch"),
    ):
        linear(torch.ones(5, 1, 2))
