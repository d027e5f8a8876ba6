"""Methods that tune nothing, or steer, with a client whose texts and states are known."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from fl_clients.backbone.load import shape_of
from strategies.lofit import Lofit
from strategies.method import TrainRequest
from strategies.pag import Pag
from strategies.rag import Rag
from strategies.stylevector import StyleVector
from tests.strategies.known import HISTORY, KnownClient, KnownFit
from tests.strategies.shifts.test_sites import SMALL, build


@pytest.fixture
def model() -> nn.Module:
    return build(LlamaConfig(**SMALL))


def test_rag_gives_the_best_matches_and_keeps_nothing() -> None:
    method = Rag(k=2)
    private, result = method.client_personalize(method.client_attach(nn.Module(), None), {}, None)  # type: ignore[arg-type]
    assert (private, result.steps) == ({}, 0)
    context = method.client_context(None, KnownClient(), "war 3")  # type: ignore[arg-type]
    assert [item.item_id for item in context.items] == ["7", "5"]


def test_pags_profile_is_written_from_items_and_precedes_the_question() -> None:
    method, client = Pag(k=1, profile_items=3, profile_tokens=7, about="profile"), KnownClient()
    client.generate = lambda prompts, tokens: [f"all {tokens}" for _ in prompts]  # type: ignore[method-assign]
    adapter = method.client_attach(nn.Module(), None)  # type: ignore[arg-type]
    private, _ = method.client_personalize(adapter, {}, KnownFit(client))
    method.client_load(adapter, {}, private)
    context = method.client_context(adapter, client, "love")
    assert context.profile == "The tags that this person uses most often are all 7"
    assert len(context.items) == 1
    method.client_load(adapter, {}, None)
    assert method.client_context(adapter, client, "love").profile == ""


def test_stylevector_is_the_mean_difference_of_states(model: nn.Module) -> None:
    method = StyleVector(depth=0.5, strength=2.0, federated=True, most_items=32)
    client = KnownClient()
    adapter = method.client_attach(model, shape_of(model))  # type: ignore[arg-type]
    own = client.states([f"{client.prompt(item.source)} {item.target}" for item in HISTORY], "block")[:, 1]
    plain = client.states([f"{client.prompt(item.source)} plain {len(item.source)}" for item in HISTORY], "block")[:, 1]
    expected = (own - plain).mean(dim=0)
    sent = method.client_train(adapter, TrainRequest(0, {}, {}, KnownFit(client))).shared
    assert torch.allclose(sent["shared_style.vector"], expected, atol=1e-6)
    mean = torch.arange(16.0)
    private, _ = method.client_personalize(adapter, {"shared_style.vector": mean}, KnownFit(client))
    # Eight items: λ = 8/13.
    assert torch.allclose(private["private_style.vector"], 8 / 13 * expected + 5 / 13 * mean, atol=1e-5)
    method.client_load(adapter, {}, private)
    assert torch.allclose(adapter.v, 2 * private["private_style.vector"])


def lofit(**changes: object) -> Lofit:
    values = {"heads": 2, "l1": 1e-3, "selection": 0.5, "federated": True, "rounds": 4, "seed": 0}
    return Lofit(**(values | changes))  # type: ignore[arg-type]


def test_lofit_chooses_heads_after_half_of_the_rounds(model: nn.Module) -> None:
    method, shape = lofit(), shape_of(model)  # type: ignore[arg-type]
    state = method.server_init(shape)
    assert set(state) == {"shared_scales.A", "server_heads"}
    scales = torch.zeros(3, 16)
    scales[1, 8:] = 1.0  # the second head of block 1
    scales[2, :8] = 2.0  # the first of block 2
    for round_number in (1, 2):
        aggregator = method.server_aggregator(state, round_number)
        assert list(aggregator.expected) == ["shared_scales.A"]
        aggregator.add(0, {"shared_scales.A": scales}, 5)
        state, _ = aggregator.result()
    assert state["shared_biases.head"].tolist() == [3, 4]
    assert state["shared_biases.v"].shape == (2, 8)
    assert "shared_scales.A" not in state
    aggregator = method.server_aggregator(state, 3)
    assert list(aggregator.expected) == ["shared_biases.v"]
    aggregator.add(0, {"shared_biases.v": torch.ones(2, 8)}, 1)
    aggregator.add(1, {"shared_biases.v": torch.zeros(2, 8)}, 3)
    state, _ = aggregator.result()
    assert torch.equal(state["shared_biases.v"], torch.full((2, 8), 0.25))
    assert state["shared_biases.head"].tolist() == [3, 4]


def test_lofit_chooses_heads_later_if_the_last_round_of_the_selection_was_abandoned(model: nn.Module) -> None:
    method = lofit()
    state = method.server_init(shape_of(model))  # type: ignore[arg-type]
    aggregator = method.server_aggregator(state, 3)  # round 2 should have chosen
    aggregator.add(0, {"shared_scales.A": torch.ones(3, 16)}, 5)
    state, _ = aggregator.result()
    assert set(state) == {"shared_biases.v", "shared_biases.head", "server_heads"}


def test_lofits_personal_biases_are_on_the_strongest_heads_before_the_choice(model: nn.Module) -> None:
    method = lofit()
    adapter = method.client_attach(model, shape_of(model))  # type: ignore[arg-type]
    scales = torch.zeros(3, 16)
    scales[1, 8:], scales[2, :8] = 1.0, 2.0
    method.client_load(adapter, {"shared_scales.A": scales}, {"private_biases.v": torch.full((2, 8), 3.0)})
    assert torch.equal(adapter.bias(1), torch.tensor([0.0] * 8 + [3.0] * 8))
    assert torch.equal(adapter.bias(2), torch.tensor([3.0] * 8 + [0.0] * 8))


def test_lofits_penalty_is_the_gradient_of_the_sum_of_scales(model: nn.Module) -> None:
    method, shape = lofit(), shape_of(model)  # type: ignore[arg-type]
    adapter = method.client_attach(model, shape)
    begin = method.server_init(shape)["shared_scales.A"]
    fit = KnownFit(KnownClient())
    method.client_train(adapter, TrainRequest(1, {"shared_scales.A": begin}, {}, fit))
    # The loss's own gradient is 1; λ = 1e-3 is for 131,072 scales, and there are 48.
    assert torch.allclose(fit.gradients[0], 1 + 1e-3 * 131_072 / 48 * begin.sign())


def test_lofits_personal_biases_are_added_to_the_collective_ones(model: nn.Module) -> None:
    method, shape = lofit(), shape_of(model)  # type: ignore[arg-type]
    adapter = method.client_attach(model, shape)
    shared = {"shared_biases.v": torch.full((2, 8), 0.5), "shared_biases.head": torch.tensor([3, 4], dtype=torch.int16)}
    private, _ = method.client_personalize(adapter, shared, KnownFit(KnownClient(), value=2.0))
    assert set(private) == {"private_biases.v"}
    method.client_load(adapter, shared, private)
    assert torch.equal(adapter.bias(1), torch.tensor([0.0] * 8 + [2.5] * 8))
    assert torch.equal(adapter.bias(2), torch.tensor([2.5] * 8 + [0.0] * 8))
    assert not adapter.bias(0).any()


def test_lofit_alone_chooses_the_users_own_heads(model: nn.Module) -> None:
    method = lofit(federated=False)
    adapter = method.client_attach(model, shape_of(model))  # type: ignore[arg-type]
    private, _ = method.client_personalize(adapter, {}, KnownFit(KnownClient()))
    assert set(private) == {"private_biases.v", "private_biases.head"}
    assert len(private["private_biases.head"]) == 2
