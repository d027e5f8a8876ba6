"""Aggregation of clients' LoRA factors, compared with Flower, PyTorch and NumPy; exact if the method is exact."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from flwr.server.strategy.aggregate import aggregate

from strategies.fdlora import FdLora, OuterStep, fused
from strategies.fedex_lora import FedexLora
from strategies.flora import Flora
from strategies.lora import merging
from strategies.lora_c import LoraC
from strategies.method import BackboneShape, FitResult, Tensors

MODULE = "model.layers.0.q_proj"
SHAPE = BackboneShape(6, 2, 1000, {MODULE: (6, 5), "model.layers.1.v_proj": (6, 3)})
EXAMPLES = (1, 2, 5)
SETTINGS = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["q_proj", "v_proj"], "blocks": [], "seed": 0}


def clients(begin: Tensors, seed: int = 0) -> list[Tensors]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {name: value + torch.randn(value.shape, generator=generator) for name, value in begin.items()} for _ in EXAMPLES
    ]


def mean_product(replies: list[Tensors], module: str) -> np.ndarray:
    """Σp_k (α/r)B_kA_k in float64, α/r = 2."""
    parts = [
        n
        / sum(EXAMPLES)
        * 2
        * reply[f"shared_lora.{module}.B"].double().numpy()
        @ reply[f"shared_lora.{module}.A"].double().numpy()
        for n, reply in zip(EXAMPLES, replies, strict=True)
    ]
    return np.sum(parts, axis=0)


def test_fedits_average_equals_flowers() -> None:
    method = LoraC(**SETTINGS)
    begin = method.server_init(SHAPE)
    replies, mean = clients(begin), method.server_aggregator(begin, 1)
    for reply, n in zip(replies, EXAMPLES, strict=True):
        mean.add(0, reply, n)
    ours, _ = mean.result()
    theirs = aggregate([([t.numpy() for t in reply.values()], n) for reply, n in zip(replies, EXAMPLES, strict=True)])
    for name, expected in zip(begin, theirs, strict=True):
        np.testing.assert_allclose(ours[name].numpy(), expected, atol=1e-6)


def run_round(method: Flora | FedexLora, state: Tensors, number: int, replies: list[Tensors]) -> Tensors:
    aggregator = method.server_aggregator(state, number)
    for user, (reply, n) in enumerate(zip(replies, EXAMPLES, strict=True)):
        aggregator.add(user, reply, n)
    return aggregator.result()[0]


def test_fedex_loras_reconstruction_equals_the_exact_mean_of_ba() -> None:
    method = FedexLora(**SETTINGS)
    begin = method.server_init(SHAPE)
    replies = clients(begin)
    state = run_round(method, begin, 1, replies)
    sent = method.server_send(state, None)
    base = merging.merge(sent, {})
    for module in SHAPE.linears:
        adapter = 2 * sent[f"shared_lora.{module}.B"] @ sent[f"shared_lora.{module}.A"]
        whole = adapter + base[f"kept_base.{module}.W"]
        np.testing.assert_allclose(whole.numpy(), mean_product(replies, module), atol=1e-5)
    # In factors: the residual's rank is (K−1)r = 4; v_proj's factors (4·9) would be larger than the weight (18).
    assert state[f"server_stack.1.{MODULE}.A"].shape == (4, 6)
    assert f"shared_base.{MODULE}.W" in sent


def test_floras_stack_equals_the_weighted_sum_of_ba() -> None:
    method = Flora(**SETTINGS)
    begin = FedexLora(**SETTINGS).server_init(SHAPE)
    replies = clients(begin)
    state = run_round(method, method.server_init(SHAPE), 1, replies)
    kept = merging.merge(method.server_send(state, None), {})
    for module in SHAPE.linears:
        np.testing.assert_allclose(kept[f"kept_base.{module}.W"].numpy(), mean_product(replies, module), atol=1e-5)


def test_a_client_is_sent_the_rounds_it_lacks_and_ends_with_a_newcomers_weights() -> None:
    method = Flora(**SETTINGS)
    begin = FedexLora(**SETTINGS).server_init(SHAPE)
    states = [method.server_init(SHAPE)]
    for number in (1, 2, 3):
        states.append(run_round(method, states[-1], number, clients(begin, number)))
    # User 1 trains in rounds 1 to 3 and is sent rounds 1 and 2 along the way, so it lacks only round 3.
    assert {int(value) for name, value in states[3].items() if name.startswith("server_seen")} == {2}
    kept: Tensors = {}
    for before, _ in pairwise(states):
        kept = merging.merge(method.server_send(before, 1), kept)
    kept = merging.merge(method.server_send(states[3], 1), kept)
    newcomer = merging.merge(method.server_send(states[3], None), {})
    for name, value in newcomer.items():
        torch.testing.assert_close(kept[name], value, rtol=0, atol=1e-5)


def test_factors_of_many_rounds_are_stacked_in_the_order_of_rounds() -> None:
    state: Tensors = {}
    for number in range(1, 12):
        factors = {f"{MODULE}.A": torch.full((1, 60), float(number)), f"{MODULE}.B": torch.ones(50, 1)}
        state = merging.push(state, number, factors, [])
    # A checkpoint's tensors are sorted by name.
    for kept in (state, {name: state[name] for name in sorted(state)}):
        A = merging.missing(kept, None)[f"shared_base.{MODULE}.A"]
        assert A[:, 0].tolist() == list(range(1, 12))


def test_factors_are_sent_while_they_are_smaller_than_their_product() -> None:
    state = merging.push({}, 1, {f"{MODULE}.A": torch.ones(2, 6), f"{MODULE}.B": torch.ones(5, 2)}, [])
    assert set(merging.missing(state, 7)) == {f"shared_base.{MODULE}.A", f"shared_base.{MODULE}.B"}
    # Rank 4: 4·6 + 5·4 = 44 numbers, more than 5·6 = 30.
    state = merging.push(state, 2, {f"{MODULE}.A": torch.ones(2, 6), f"{MODULE}.B": torch.ones(5, 2)}, [])
    sent = merging.missing(state, 7)
    assert list(sent) == [f"shared_base.{MODULE}.W"]
    assert torch.equal(sent[f"shared_base.{MODULE}.W"], torch.full((5, 6), 4.0))


def test_fdloras_outer_step_equals_pytorchs_nesterov_sgd() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.SGD([parameter], lr=0.7, momentum=0.5, nesterov=True)
    state = {"shared_lora.x.A": parameter.detach().clone()}
    for client in (torch.tensor([0.5, -1.0]), torch.tensor([0.0, 3.0]), torch.tensor([2.0, 2.0])):
        # A second client, with a third as many examples, returns its starting point.
        parameter.grad = 0.75 * (parameter.detach() - client)
        step = OuterStep(state, 0.7, 0.5)
        step.add(0, {"shared_lora.x.A": client}, 3)
        step.add(1, {"shared_lora.x.A": parameter.detach().clone()}, 1)
        state = step.result()[0]
        optimizer.step()
        torch.testing.assert_close(state["shared_lora.x.A"], parameter.detach())


def test_fusion_by_hand_merges_a_and_b_separately() -> None:
    shared = {"shared_lora.x.A": torch.tensor([[1.0]]), "shared_lora.x.B": torch.tensor([[2.0]])}
    private = {"private_lora.x.A": torch.tensor([[10.0]]), "private_lora.x.B": torch.tensor([[20.0]])}
    merged = fused(shared, private, torch.tensor([0.5, 0.1]))
    assert [float(value) for value in merged.values()] == [1.5, 3.0]


class Bowl:
    """A fit whose loss is least if the fused A is `goal`; w = (0.5, 0.65), for example, gives 7."""

    def __init__(self, goal: float = 7) -> None:
        self.goal = goal
        self.losses: list[float] = []
        self.batches: set[int] = set()
        self.value = 0.0

    def __call__(self, _parameters: object, _after_step: object = None) -> FitResult:
        return FitResult(1, 1, 1.0, 1.0)

    def loss(self, batches: int) -> float:
        self.batches.add(batches)
        self.losses.append((self.value - self.goal) ** 2)
        return self.losses[-1]


class OneNumber:
    """An adapter that consists of one number."""

    def __init__(self, fit: Bowl) -> None:
        self.fit = fit

    def load(self, _name: str, tensors: Tensors, _prefix: str) -> None:
        self.fit.value = float(next(iter(tensors.values())))


def test_adafusion_is_reproducible_and_no_worse_than_its_first_trials() -> None:
    settings = {"sync_every": 5, "outer_lr": 1.0, "outer_momentum": 0.5}
    fusion = {"fusion_trials": 30, "fusion_batches": 3, "fusion_penalty": 0.0}
    method = FdLora(**SETTINGS, **settings, **fusion)
    shared, private = {"shared_lora.x.A": torch.tensor([1.0])}, {"private_lora.x.A": torch.tensor([10.0])}
    results = []
    for _ in range(2):
        fit = Bowl()
        w = method._fuse(OneNumber(fit), shared, private, fit)  # type: ignore[arg-type]
        # Only θ_s: (1−7)², only θ_p: (10−7)², half of each: (5.5−7)².
        assert sorted(fit.losses[:3]) == [2.25, 9.0, 36.0]
        assert (len(fit.losses), fit.batches) == (30, {3})
        assert (float(w[0] + 10 * w[1]) - 7) ** 2 == pytest.approx(min(fit.losses))
        assert min(fit.losses) < 2.25
        assert w.abs().max() <= 1.5
        results.append(w)
    assert torch.equal(*results)
    # Weights range from −1.5 to 1.5. With weights up to 1, the closest value to 16 would be 11.
    far = Bowl(16)
    w = method._fuse(OneNumber(far), shared, private, far)  # type: ignore[arg-type]
    assert 1 < float(w.abs().max()) <= 1.5
    assert min(far.losses) < 25


class Ramp:
    """Adapter and fit in one: the fused A is w itself, and the loss falls by 3/4 per unit of w₁ or w₂."""

    def __init__(self) -> None:
        self.tried: list[list[float]] = []

    def load(self, _name: str, tensors: Tensors, _prefix: str) -> None:
        self.tried.append(tensors["shared_lora.x.A"].tolist())

    def loss(self, _batches: int) -> float:
        return 3.0 - 0.75 * sum(self.tried[-1])


@pytest.mark.parametrize(("penalty", "large"), [(1.0, True), (2.0, False)])
def test_adafusions_penalty_is_the_mean_of_both_weights(penalty: float, large: bool) -> None:
    settings = {"sync_every": 5, "outer_lr": 1.0, "outer_momentum": 0.5, "fusion_trials": 30, "fusion_batches": 1}
    method = FdLora(**SETTINGS, **settings, fusion_penalty=penalty)
    shared, private = {"shared_lora.x.A": torch.tensor([1.0, 0.0])}, {"private_lora.x.A": torch.tensor([0.0, 1.0])}
    both = Ramp()
    w = method._fuse(both, shared, private, both).tolist()  # type: ignore[arg-type]
    # λ·mean|w| rises by λ/2 per unit of w₁ or w₂: less than 3/4 for λ = 1, so large w win, and more for λ = 2.
    assert (w == max(both.tried, key=sum)) if large else (sum(w) < 1)
    assert w in both.tried
