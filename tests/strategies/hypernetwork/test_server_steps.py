"""Pulling clients' changes through the network is central training, where clients take one step of plain SGD."""

import pytest
import torch
from torch.func import functional_call

from strategies.aggregation.optimizers import ServerOptimizer
from strategies.hypernetwork.network import SLOPE_RATE, Hypernetwork, NetworkSize
from strategies.hypernetwork.outputs import ShiftOutput
from strategies.hypernetwork.server_profiles import (
    COMPONENTS,
    MEAN,
    PROFILE,
    SENT_PROFILE,
    SPREAD,
    Profiles,
    random_profile,
    read,
    whitening,
)
from strategies.hypernetwork.server_steps import NETWORK, PullThrough
from strategies.method import BackboneShape, Tensors

WIDTH, LENGTH = 4, 6
RATE, OUTER = 0.3, 0.5
GOALS = {0: torch.ones(2, LENGTH), 1: -torch.arange(12.0).view(2, LENGTH)}
"""User u's loss is ‖θ − goal‖² / 2."""
EXAMPLES = {0: 3, 1: 1}

NONE_CUT = 9.0
"""So much noise that profiles may be as long as these."""


def network() -> Hypernetwork:
    built = Hypernetwork(WIDTH, 2, {"x": torch.linspace(0, 1, LENGTH)}, NetworkSize(8, 5, 0.0), 0).eval()
    with torch.no_grad():  # not the start, where only heads have a gradient
        built.weights[0].normal_(generator=torch.Generator().manual_seed(5))
    return built


def profiles() -> dict[int, torch.Tensor]:
    return {user: torch.randn(WIDTH, generator=torch.Generator().manual_seed(user)) for user in GOALS}


def generate(weights: Tensors, profile: torch.Tensor) -> Tensors:
    return {"x": functional_call(network(), weights, (profile,))["x"]}


def test_one_local_step_of_sgd_equals_one_step_of_central_sgd() -> None:
    psi, known = network(), profiles()
    state = {f"{NETWORK}{name}": value.clone() for name, value in psi.state_dict().items()}
    step = PullThrough(
        state, known.__getitem__, generate, lambda sent: sent, {}, ServerOptimizer("momentum", OUTER, 0.0)
    )
    for user, goal in GOALS.items():
        begun = psi(known[user])["x"].detach()
        step.add(user, {"shared_adapter.x": begun - RATE * (begun - goal)}, EXAMPLES[user])
    after, figures = step.result()

    loss = sum(EXAMPLES[user] / 4 * (psi(known[user])["x"] - goal).square().sum() / 2 for user, goal in GOALS.items())
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    for name, parameter in psi.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(after[f"{NETWORK}{name}"], parameter.detach() - OUTER * RATE * parameter.grad)
    norm = sum(float(value.grad.square().sum()) for value in psi.parameters() if value.grad is not None) ** 0.5
    assert figures["pulled_norm"] == pytest.approx(RATE * norm, rel=1e-5)


def test_one_local_step_on_a_shift_is_one_of_central_sgd_at_the_start() -> None:
    shape = BackboneShape(hidden=WIDTH, blocks=3, parameters=0)
    output = ShiftOutput([1, 2], 2, "all")
    built = Hypernetwork(WIDTH, 2, output.starts(shape, 0), NetworkSize(8, 5, 0.0, depth_bias=True), 0).eval()
    state = {f"{NETWORK}{name}": value.clone() for name, value in built.state_dict().items()}
    shapes, known = output.shapes(shape), profiles()

    def write(weights: Tensors, profile: torch.Tensor) -> Tensors:
        return output.tensors(functional_call(built, weights, (profile,)), shapes)

    def loss(adapter: Tensors, user: int) -> torch.Tensor:
        # Of the function: its matrix RᵀD and its vector Rᵀb at every site.
        parts = [
            (adapter[f"{site}.R"].T @ adapter[f"{site}.{letter}"] - user - 1).square().sum()
            for site in (1, 2)
            for letter in "Db"
        ]
        return torch.stack(parts).sum()

    rate = 1e-3
    step = PullThrough(state, known.__getitem__, write, output.trained, {}, ServerOptimizer("momentum", 1.0, 0.0))
    for user in known:
        adapter = {
            name: value.detach().requires_grad_() for name, value in write(built.state_dict(), known[user]).items()
        }
        gradients = torch.autograd.grad(loss(adapter, user), list(adapter.values()))
        moved = {n: (v - rate * g).detach() for (n, v), g in zip(adapter.items(), gradients, strict=True)}
        sent = output.sent(moved)
        step.add(user, {f"shared_adapter.{name}": value for name, value in sent.items()}, EXAMPLES[user])
    after, _ = step.result()

    central = sum(EXAMPLES[user] / 4 * loss(write(dict(built.named_parameters()), known[user]), user) for user in known)
    assert isinstance(central, torch.Tensor)
    central.backward()
    for name, parameter in built.named_parameters():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else -rate * parameter.grad
        found = after[f"{NETWORK}{name}"] - parameter.detach()
        assert float((found - wanted).norm()) <= 1e-3 * float(wanted.norm()) + 1e-7, name


def test_with_a_bias_for_each_depth_a_step_of_rate_1_moves_it_as_averaging_would() -> None:
    built = Hypernetwork(WIDTH, 2, {"x": torch.zeros(LENGTH)}, NetworkSize(8, 5, 0.0, depth_bias=True), 0).eval()
    state = {f"{NETWORK}{name}": value.clone() for name, value in built.state_dict().items()}

    def write(weights: Tensors, profile: torch.Tensor) -> Tensors:
        return {"x": functional_call(built, weights, (profile,))["x"]}

    step = PullThrough(state, profiles().__getitem__, write, dict, {}, ServerOptimizer("momentum", 1.0, 0.0))
    for user, goal in GOALS.items():
        step.add(user, {"shared_adapter.x": goal}, EXAMPLES[user])
    after, _ = step.result()
    average = sum(EXAMPLES[user] / 4 * goal for user, goal in GOALS.items())
    torch.testing.assert_close(after[f"{NETWORK}biases.0"], average)


def test_without_a_reply_there_is_no_step() -> None:
    state = {f"{NETWORK}{name}": value for name, value in network().state_dict().items()}
    step = PullThrough(state, profiles().__getitem__, generate, dict, {}, ServerOptimizer("adam", 1.0, 0.9))
    with pytest.raises(ValueError, match="without a single reply"):
        step.result()


def test_a_step_of_rate_1_moves_slopes_by_the_regression_of_changes_on_components() -> None:
    users, count = 40, 3
    generator = torch.Generator().manual_seed(2)
    apart = torch.randn(users, WIDTH, generator=generator)
    apart = apart - apart.mean(dim=0)
    z = apart @ whitening(apart, count).T
    changes = torch.randn(users, 2 * LENGTH, generator=generator)
    size = NetworkSize(8, 5, 0.0, depth_bias=True, components=count)
    built = Hypernetwork(WIDTH, 2, {"x": torch.zeros(LENGTH)}, size, 0).eval()
    state = {f"{NETWORK}{name}": value.clone() for name, value in built.state_dict().items()}

    def write(weights: Tensors, profile: torch.Tensor) -> Tensors:
        return {"x": functional_call(built, weights, (profile,))["x"]}

    inputs = torch.cat([apart, z], dim=1)
    step = PullThrough(state, inputs.__getitem__, write, dict, {}, ServerOptimizer("momentum", 1.0, 0.0))
    for user in range(users):
        step.add(user, {"shared_adapter.x": changes[user].view(2, LENGTH)}, 1)
    after, _ = step.result()
    fitted = torch.linalg.lstsq(torch.cat([torch.ones(users, 1), z], dim=1), changes).solution
    torch.testing.assert_close(after[f"{NETWORK}biases.0"].flatten(), fitted[0])
    # Slopes are multiplied by √SLOPE_RATE where they act.
    slopes = SLOPE_RATE**0.5 * after[f"{NETWORK}slopes.0"].view(2 * LENGTH, count)
    torch.testing.assert_close(slopes, SLOPE_RATE * fitted[1:].T, atol=1e-5, rtol=1e-4)


def test_components_are_uncorrelated_with_variance_1_and_where_nothing_differs_0() -> None:
    generator = torch.Generator().manual_seed(0)
    profiles = torch.randn(50, 2, generator=generator) @ torch.tensor([[3.0, 0.0, 1.0], [0.0, 0.1, 0.0]])
    apart = profiles - profiles.mean(dim=0)
    found = whitening(apart, 3)
    z = apart @ found.T
    expected = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(z.T @ z / 50, expected, atol=1e-5, rtol=0)
    # The direction in which they differ most comes first; its largest number is positive.
    assert found[0].abs().argmax() == 0
    assert found[0, 0] > 0
    assert not found[2].any()


def test_what_the_network_reads_is_0_for_the_mean_and_never_far_beyond_the_collective_users() -> None:
    opening = Profiles({}, 2, 1, NONE_CUT)
    for user, profile in enumerate(([1.0, 0.0], [3.0, 0.0], [1.0, 0.0], [3.0, 0.0])):
        opening.add(user, {SENT_PROFILE: torch.tensor(profile)}, 1)
    state, _ = opening.result()
    # Mean (2, 0), deviations ±1 in one of two numbers: spread √½, one component for four profiles.
    assert float(state[SPREAD]) == pytest.approx(0.5**0.5)
    torch.testing.assert_close(state[COMPONENTS], torch.tensor([[1.0, 0.0]]))
    assert read(state, None, 2, 1).tolist() == [0.0, 0.0, 0.0]
    assert read(state, torch.tensor([2.5, 1.0]), 2, 1).tolist() == pytest.approx([0.5**0.5, 2**0.5, 0.5])
    assert float(read(state, torch.tensor([90.0, 0.0]), 2, 1)[2]) == pytest.approx(2.0)


@pytest.mark.parametrize("count", [0, 1, 3, 10, 100])
def test_after_profiles_that_are_all_alike_everybody_is_read_as_the_mean(count: int) -> None:
    opening = Profiles({}, 2, 1, NONE_CUT)
    for user in range(count):
        opening.add(user, {SENT_PROFILE: torch.tensor([0.1, 5.7])}, 1)
    state, _ = opening.result()
    assert read(state, torch.tensor([3.0, 5.0]), 2, 1).tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(random_profile(state, torch.Generator()), state[MEAN])


@pytest.mark.parametrize("count", [8, 12, 17, 40, 100])
def test_newcomers_components_are_about_as_large_as_collective_users(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    mixed = torch.randn(20, 30, generator=generator)
    profiles = torch.randn(count + 200, 20, generator=generator) @ mixed
    opening = Profiles({}, 30, 16, NONE_CUT)
    for user in range(count):
        opening.add(user, {SENT_PROFILE: profiles[user]}, 1)
    state, _ = opening.result()
    kept = int(state[COMPONENTS].any(dim=1).sum())
    assert kept == min(16, count // 4)
    z = (profiles[count:] - state[MEAN]) @ state[COMPONENTS].T
    assert float(z.square().sum(dim=1).mean()) < 2 * kept


def test_a_random_profile_has_the_components_of_a_person_who_could_exist() -> None:
    opening = Profiles({}, 3, 2, NONE_CUT)
    generator = torch.Generator().manual_seed(1)
    for user in range(40):
        profile = torch.tensor([5.0, 1.0, 0.0]) + torch.randn(3, generator=generator) * torch.tensor([2.0, 0.5, 0.0])
        opening.add(user, {SENT_PROFILE: profile}, 1)
    state, _ = opening.result()
    drawn = torch.stack([random_profile(state, generator) for _ in range(2000)])
    z = (drawn - state[MEAN]) @ state[COMPONENTS].T
    torch.testing.assert_close(z.T @ z / 2000, torch.eye(2), atol=0.1, rtol=0)


def test_the_mean_is_that_of_the_opening_whoever_comes_later() -> None:
    opening = Profiles({}, 2, 0, NONE_CUT)
    for user, profile in enumerate(([1.0, 0.0], [0.0, 3.0], [0.0, 0.0])):
        opening.add(user, {SENT_PROFILE: torch.tensor(profile)}, 1)
    state, figures = opening.result()
    assert state[MEAN].tolist() == [0.5, 1.5]
    assert figures == {"profiles": 2.0, "profiles_cut": 0.0}
    later = Profiles(state, 2, 0, NONE_CUT)
    later.add(7, {SENT_PROFILE: torch.tensor([8.0, 8.0])}, 1)
    state, _ = later.result()
    assert state[MEAN].tolist() == [0.5, 1.5]
    assert {name for name in state if name.startswith(PROFILE)} == {f"{PROFILE}{user}" for user in (0, 1, 7)}


def test_a_profile_longer_than_an_honest_one_is_cut() -> None:
    opening = Profiles({}, 4, 0)
    for user, profile in enumerate(([2.0, 0.0, 0.0, 0.0], [0.0, 2e25, 0.0, 0.0])):
        opening.add(user, {SENT_PROFILE: torch.tensor(profile)}, 1)
    state, figures = opening.result()
    # Honest profiles of four numbers have length 2.
    torch.testing.assert_close(state[MEAN], torch.tensor([1.0, 1.0, 0.0, 0.0]), atol=1e-3, rtol=0)
    assert figures == {"profiles": 2.0, "profiles_cut": 1.0}
