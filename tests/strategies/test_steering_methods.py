"""Methods that tune nothing, or steer, with a client whose texts and states are known."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from fl_clients.backbone.load import shape_of
from fl_clients.lamp.user import Pair
from strategies.chameleon import Chameleon
from strategies.client_tools import ClientTools, FitResult, Preference, TextPair
from strategies.lofit import Lofit
from strategies.method import Tensors, TrainRequest
from strategies.pag import Pag
from strategies.prompting.synthetic_pairs import differing, representative_places, write_insights, write_pairs
from strategies.rag import Rag
from strategies.steering.directions import top_directions
from strategies.stylevector import StyleVector
from tests.strategies.shifts.test_sites import SMALL, build

LAYERS, D = 3, 16
HISTORY = [Pair(str(n), f"text {n} about {'war' if n % 2 else 'love'}", f"answer {n}") for n in range(8)]
CHAMELEON = {
    "items": 6,
    "layers": 2,
    "strength": 1.0,
    "ccs_normalise": True,
    "ccs_steps": 40,
    "restarts": 2,
    "sketch_rows": 8,
    "insight_tokens": 5,
    "answer_tokens": 5,
    "embedder": "backbone",
    "rounds": 2,
    "seed": 0,
}


class KnownClient:
    """A client's tools with texts and states that follow from the prompts alone."""

    task = "movie_tagging"

    def __init__(self, history: Sequence[TextPair] = HISTORY, same: int = 0) -> None:
        """Let the first `same` pairs have equal answers."""
        self.history, self.same = history, same
        self.asked: list[str] = []

    def prompt(self, source: str) -> str:
        return f"Movie: {source}\nTag:"

    def answers(self, sources: Sequence[str]) -> list[str]:
        return [f"plain {len(source)}" for source in sources]

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        self.asked += prompts
        half = len(prompts) // 2
        return [f"said {max_new_tokens} {place if place % half >= self.same else 0}" for place in range(len(prompts))]

    def states(self, texts: Sequence[str], place: str) -> torch.Tensor:
        found = [torch.randn(LAYERS, D, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in texts]
        return torch.stack(found)

    def embed(self, texts: Sequence[str], embedder: str) -> torch.Tensor:
        return torch.nn.functional.normalize(self.states(texts, "block")[:, 0], dim=1)

    def fit_on(self, pairs: Sequence[TextPair], budget_s: float) -> Any:
        raise AssertionError("not used")

    def prefer(self, preferences: Sequence[Preference], beta: float, budget_s: float) -> Any:
        raise AssertionError("not used")


class KnownFit:
    """A training that sets every parameter to a value, after the hooks on its gradient."""

    def __init__(self, client: ClientTools, value: float = 1.0) -> None:
        self.client, self.value = client, value
        self.gradients: list[torch.Tensor] = []

    def __call__(self, parameters: Any, *_: Any) -> FitResult:
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.sum().backward()
            self.gradients.append(parameter.grad.clone())
            parameter.grad = None
            parameter.requires_grad_(False)
            parameter.data.fill_(self.value)
        return FitResult(4, 2, 2.0, 1.0)

    def loss(self, _batches: int) -> float:
        return 1.5


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


class TestSyntheticPairs:
    """History selection, insights and pairs."""

    def test_items_furthest_out_are_chosen_in_the_order_of_time(self) -> None:
        client = KnownClient([Pair(str(n), "t", "a") for n in range(4)])
        # One component: centred positions are −2, −1, 0 and 3 along it.
        client.embed = lambda texts, _: torch.tensor([[-2.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [3.0, 0.0]])  # type: ignore[method-assign]
        assert representative_places(client, 2, "backbone") == [0, 3]
        assert representative_places(client, 9, "backbone") == [0, 1, 2, 3]

    def test_a_question_is_not_shown_its_own_answer(self) -> None:
        client = KnownClient()
        pairs = write_pairs(client, HISTORY, ("They like war", "Plain"), 5)
        assert len(pairs) == 8
        for item, prompt in zip(HISTORY * 2, client.asked, strict=True):
            assert item.target not in prompt
            assert prompt.endswith(client.prompt(item.source))
        assert all("They like war" in prompt for prompt in client.asked[:8])
        assert all("Plain" in prompt for prompt in client.asked[8:])

    def test_both_roles_see_the_same_items(self) -> None:
        client = KnownClient()
        write_insights(client, HISTORY, 5)
        first, second = client.asked
        assert first.rpartition("\n\n")[0] == second.rpartition("\n\n")[0]

    def test_equal_answers_are_left_out(self) -> None:
        client = KnownClient(same=3)
        pairs = write_pairs(client, HISTORY, ("a", "b"), 5)
        assert len(differing(pairs)) == 5


def chameleon(**changes: object) -> Chameleon:
    return Chameleon(**(CHAMELEON | {"federated": True} | changes))  # type: ignore[arg-type]


def opened(method: Chameleon, client: KnownClient, adapter: Any) -> tuple[Tensors, Tensors]:
    result = method.client_train(adapter, TrainRequest(0, {}, {}, KnownFit(client)))
    assert result.client_state is not None
    return result.shared, result.client_state


def test_chameleons_group_direction_is_that_of_all_states_together(model: nn.Module) -> None:
    method, shape = chameleon(), shape_of(model)  # type: ignore[arg-type]
    adapter = method.client_attach(model, shape)
    clients = [KnownClient(), KnownClient([Pair("9", f"other {n}", "x") for n in range(7)], same=2)]
    aggregator = method.server_aggregator(method.server_init(shape), 0)
    states = []
    for user, client in enumerate(clients):
        shared, kept = opened(method, client, adapter)
        aggregator.add(user, shared, 1)
        states.append(kept)
    state, figures = aggregator.result()
    personal = torch.cat([kept["private_states.P"] for kept in states])
    neutral = torch.cat([kept["private_states.N"] for kept in states])
    assert torch.allclose(state["server_direction.P"], top_directions(personal), atol=1e-5)
    assert torch.allclose(state["shared_means.P"], personal.mean(dim=0), atol=1e-5)
    assert torch.allclose(state["shared_means.N"], neutral.mean(dim=0), atol=1e-5)
    assert figures == {"pairs": len(personal), "discarded": 12 - len(personal)}


def run_rounds(method: Chameleon, clients: list[KnownClient], model: nn.Module) -> Tensors:
    shape = shape_of(model)  # type: ignore[arg-type]
    adapter, state = method.client_attach(model, shape), method.server_init(shape)
    kept: dict[int, Tensors] = {}
    for round_number in range(method.rounds + 1):
        aggregator = method.server_aggregator(state, round_number)
        for user, client in enumerate(clients):
            request = TrainRequest(round_number, state if round_number else {}, kept.get(user, {}), KnownFit(client))
            result = method.client_train(adapter, request)
            assert {name: value.shape for name, value in result.shared.items()} == {
                name: value.shape for name, value in aggregator.expected.items()
            }
            kept[user] = result.client_state or kept[user]
            aggregator.add(user, result.shared, 1)
        state, _ = aggregator.result()
    return method.server_send(state, None)


def test_chameleons_newcomers_get_two_directions_for_each_chosen_layer(model: nn.Module) -> None:
    state = run_rounds(chameleon(), [KnownClient(), KnownClient(HISTORY[:6])], model)
    assert set(state) == {"shared_edit.layer", "shared_edit.P", "shared_edit.N"}
    assert state["shared_edit.layer"].shape == (2,)
    assert torch.allclose(state["shared_edit.P"].norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(state["shared_edit.N"].norm(dim=1), torch.ones(2), atol=1e-5)


def test_one_clients_probes_are_those_of_the_central_search(model: nn.Module) -> None:
    # A group of one user in one round searches as that user alone does.
    client = KnownClient()
    federated = run_rounds(chameleon(rounds=1), [client], model)
    alone = chameleon(federated=False, rounds=1)
    private, _ = alone.client_personalize(alone.client_attach(model, shape_of(model)), {}, KnownFit(client))  # type: ignore[arg-type]
    for part in ("layer", "P", "N"):
        assert torch.allclose(private[f"private_edit.{part}"], federated[f"shared_edit.{part}"], atol=1e-4)


def test_a_group_without_a_pair_edits_nothing(model: nn.Module) -> None:
    assert run_rounds(chameleon(), [KnownClient(same=8)], model) == {}


def test_chameleons_newcomers_get_an_edit_after_any_round_of_probes(model: nn.Module) -> None:
    method, shape, client = chameleon(), shape_of(model), KnownClient()  # type: ignore[arg-type]
    adapter = method.client_attach(model, shape)
    aggregator = method.server_aggregator(method.server_init(shape), 0)
    shared, kept = opened(method, client, adapter)
    aggregator.add(0, shared, 1)
    state, _ = aggregator.result()
    assert method.server_send(state, None) == {}
    aggregator = method.server_aggregator(state, 1)  # the first of two, and the other may be abandoned
    aggregator.add(0, method.client_train(adapter, TrainRequest(1, state, kept, KnownFit(client))).shared, 1)
    state, _ = aggregator.result()
    assert method.server_send(state, None)["shared_edit.layer"].shape == (2,)
    assert set(method.server_send(state, 0)) == {name for name in state if name.startswith("shared_")}


def test_few_pairs_use_the_svd_alone(model: nn.Module) -> None:
    method, client = chameleon(federated=False), KnownClient(HISTORY[:6], same=3)
    adapter = method.client_attach(model, shape_of(model))  # type: ignore[arg-type]
    private, result = method.client_personalize(adapter, {}, KnownFit(client))
    assert result.figures["pairs"] == 3
    assert not any(name.startswith("ccs_loss") for name in result.figures)
    assert private["private_edit.layer"].tolist() == [1, 2]  # '2 spread' in three blocks
    assert torch.allclose(private["private_edit.N"].norm(dim=1), torch.ones(2), atol=1e-5)


def test_chameleon_records_pairs_losses_layers_and_the_edits_effect(model: nn.Module) -> None:
    method = chameleon(federated=False)
    adapter = method.client_attach(model, shape_of(model))  # type: ignore[arg-type]
    _, result = method.client_personalize(adapter, {}, KnownFit(KnownClient()))
    assert set(result.figures) == {
        *("pairs", "discarded", "loss_before", "loss_after"),
        *(f"ccs_loss.{layer}" for layer in range(LAYERS)),
        *("layer.0", "layer.1"),
    }
    assert adapter.strength == 1.0
