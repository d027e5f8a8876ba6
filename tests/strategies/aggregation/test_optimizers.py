"""Server optimisers, against PyTorch's, Flower's and a step by hand."""

import math

import pytest
import torch
from flwr.serverapp.strategy import FedAvgM

from strategies.aggregation.optimizers import ServerOptimizer
from strategies.method import Tensors

CHANGES = [torch.tensor(values) for values in ([1.0, -2.0], [0.5, 0.25], [-3.0, 0.0], [0.0, 1e-4])]


def trail(optimizer: ServerOptimizer) -> list[torch.Tensor]:
    """Return x after every change, from 0."""
    x, memory, seen = torch.zeros(2), {}, []
    for change in CHANGES:
        step, memory = optimizer.step({"shared_x": change}, memory)
        x = x + step["shared_x"]
        seen.append(x)
    return seen


def torch_trail(build: type[torch.optim.Optimizer], **options: object) -> list[torch.Tensor]:
    x = torch.zeros(2, requires_grad=True)
    optimizer, seen = build([x], **options), []  # type: ignore[arg-type]
    for change in CHANGES:
        x.grad = -change
        optimizer.step()
        seen.append(x.detach().clone())
    return seen


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            ServerOptimizer("momentum", 0.5, 0.9),
            lambda: torch_trail(torch.optim.SGD, lr=0.5, momentum=0.9),
        ),
        (
            ServerOptimizer("nesterov", 0.7, 0.5),
            lambda: torch_trail(torch.optim.SGD, lr=0.7, momentum=0.5, nesterov=True),
        ),
        (
            ServerOptimizer("adam", 0.1, 0.9, 0.99, 1e-3),
            lambda: torch_trail(torch.optim.Adam, lr=0.1, betas=(0.9, 0.99), eps=1e-3),
        ),
    ],
)
def test_steps_equal_those_of_torch(ours: ServerOptimizer, theirs: object) -> None:
    assert callable(theirs)
    for mine, reference in zip(trail(ours), theirs(), strict=True):
        assert torch.allclose(mine, reference, atol=1e-6)


def test_momentum_equals_flowers_fedavgm() -> None:
    flower = FedAvgM(server_learning_rate=0.5, server_momentum=0.9)
    x, velocity = torch.zeros(2), torch.zeros(2)
    for change, mine in zip(CHANGES, trail(ServerOptimizer("momentum", 0.5, 0.9)), strict=True):
        # Flower's rule, with its own constants: v ← μv + (x − average), x ← x − ηv.
        velocity = flower.server_momentum * velocity - change
        x = x - flower.server_learning_rate * velocity
        assert torch.allclose(mine, x, atol=1e-6)


def test_yogi_by_hand() -> None:
    optimizer = ServerOptimizer("yogi", 1.0, 0.5, 0.75, 0.5)
    step, memory = optimizer.step({"shared_x": torch.tensor([2.0])}, {})
    # m = 1, v = 0 − ¼·sign(0 − 4)·4 = 1; m̂ = 1/½ = 2, v̂ = 1/¼ = 4: 2/(2 + ½).
    assert float(step["shared_x"]) == pytest.approx(0.8)
    step, memory = optimizer.step({"shared_x": torch.tensor([0.5])}, memory)
    # m = ½ + ¼ = 0.75, v = 1 − ¼·sign(1 − ¼)·¼ = 0.9375; m̂ = 0.75/0.75 = 1, v̂ = 0.9375/0.4375.
    assert float(step["shared_x"]) == pytest.approx(1 / (math.sqrt(0.9375 / 0.4375) + 0.5))
    assert float(memory["steps"]) == 2


def test_no_change_means_no_step_at_first() -> None:
    for kind in ("momentum", "nesterov", "adam", "yogi"):
        step, _ = ServerOptimizer(kind, 1.0, 0.9).step({"shared_x": torch.zeros(2)}, {})  # type: ignore[arg-type]
        assert torch.equal(step["shared_x"], torch.zeros(2)), kind


def test_the_memory_is_all_that_a_step_depends_on() -> None:
    optimizer, memory = ServerOptimizer("adam", 0.1, 0.9), {}
    steps: list[Tensors] = []
    for change in CHANGES:
        step, memory = ServerOptimizer("adam", 0.1, 0.9).step({"shared_x": change}, dict(memory))
        steps.append(step)
    assert torch.equal(sum(step["shared_x"] for step in steps), trail(optimizer)[-1])
