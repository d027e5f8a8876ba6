"""Chameleon: pairs that the backbone writes, and directions from one user or a group."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from fl_clients.backbone.load import shape_of
from fl_clients.lamp.user import Pair
from strategies.chameleon import Chameleon
from strategies.method import Tensors, TrainRequest
from strategies.prompting.synthetic_pairs import differing, representative_places, write_insights, write_pairs
from strategies.steering.directions import ccs_loss, top_directions
from tests.strategies.known import HISTORY, LAYERS, D, KnownClient, KnownFit
from tests.strategies.shifts.test_sites import SMALL, build

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


@pytest.fixture
def model() -> nn.Module:
    return build(LlamaConfig(**SMALL))


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


@pytest.mark.parametrize("differing_pairs", [0, 1, 2, 3])
def test_fewer_than_three_pairs_do_not_leave_their_client(differing_pairs: int, model: nn.Module) -> None:
    method, client = chameleon(), KnownClient(same=6 - differing_pairs)
    adapter, state, _ = after_opening(method, KnownClient(), model)
    shared, kept = opened(method, client, adapter)
    assert len(kept["private_states.P"]) == differing_pairs
    probes = method.client_train(adapter, TrainRequest(1, state, kept, KnownFit(client))).shared
    sent = [shared["shared_sketch.rows"], shared["shared_sums.P"], shared["shared_sums.N"]]
    sent.append(probes["shared_probes.theta"] - state["shared_probes.theta"])
    assert [bool(tensor.any()) for tensor in sent] == [differing_pairs >= 3] * 4
    used = float(differing_pairs) if differing_pairs >= 3 else 0.0
    assert shared["shared_sums.pairs"].tolist() == [used, 6.0]
    assert float(probes["shared_probes.pairs"]) == used


def test_losses_are_those_of_the_groups_probes(model: nn.Module) -> None:
    # A client's own would be near 0 after steps on its few pairs, whatever they say.
    method, client = chameleon(ccs_steps=400), KnownClient()
    adapter, state, kept = after_opening(method, client, model)
    sent = method.client_train(adapter, TrainRequest(1, state, kept, KnownFit(client))).shared
    personal, neutral = (kept[f"private_states.{kind}"] - state[f"shared_means.{kind}"] for kind in "PN")
    begun = ccs_loss(state["shared_probes.theta"], state["shared_probes.b"], personal, neutral)
    assert torch.allclose(sent["shared_probes.loss"], begun)
    after = ccs_loss(sent["shared_probes.theta"], sent["shared_probes.b"], personal, neutral)
    assert (after < begun).all()


def after_opening(method: Chameleon, client: KnownClient, model: nn.Module) -> tuple[Any, Tensors, Tensors]:
    """Return the adapter, the server's state after an opening of one client, and what that client keeps."""
    shape = shape_of(model)  # type: ignore[arg-type]
    adapter = method.client_attach(model, shape)
    aggregator = method.server_aggregator(method.server_init(shape), 0)
    shared, kept = opened(method, client, adapter)
    aggregator.add(0, shared, 1)
    state, _ = aggregator.result()
    return adapter, state, kept


def test_a_client_whose_opening_was_lost_writes_its_pairs_once(model: nn.Module) -> None:
    method, client = chameleon(), KnownClient()
    adapter, state, kept = after_opening(method, client, model)
    late = method.client_train(adapter, TrainRequest(1, state, {}, KnownFit(client))).client_state
    assert late is not None
    assert {name: value.tolist() for name, value in late.items()} == {n: v.tolist() for n, v in kept.items()}
    assert method.client_train(adapter, TrainRequest(2, state, late, KnownFit(client))).client_state is None


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
    # A group of one user in one round takes the steps of that user alone. It chooses layers by the losses before them,
    # which here rank the layers alike.
    client = KnownClient()
    federated = run_rounds(chameleon(rounds=1), [client], model)
    alone = chameleon(federated=False, rounds=1)
    private, _ = alone.client_personalize(alone.client_attach(model, shape_of(model)), {}, KnownFit(client))  # type: ignore[arg-type]
    for part in ("layer", "P", "N"):
        assert torch.allclose(private[f"private_edit.{part}"], federated[f"shared_edit.{part}"], atol=1e-4)


def test_a_group_without_a_pair_edits_nothing(model: nn.Module) -> None:
    assert run_rounds(chameleon(), [KnownClient(same=8)], model) == {}


def test_chameleons_newcomers_get_an_edit_after_any_round_of_probes(model: nn.Module) -> None:
    method, client = chameleon(), KnownClient()
    adapter, state, kept = after_opening(method, client, model)
    assert method.server_send(state, None) == {}
    aggregator = method.server_aggregator(state, 1)  # the first of two, and the other may be abandoned
    aggregator.add(0, method.client_train(adapter, TrainRequest(1, state, kept, KnownFit(client))).shared, 1)
    state, _ = aggregator.result()
    assert method.server_send(state, None)["shared_edit.layer"].shape == (2,)
    assert set(method.server_send(state, 0)) == {name for name in state if name.startswith("shared_")}


def test_a_checkpoint_of_an_earlier_version_is_served_its_edit() -> None:
    edit = {"shared_edit.layer": torch.tensor([1])} | {f"shared_edit.{kind}": torch.ones(1, D) for kind in "PN"}
    assert chameleon().server_send(edit, None) == edit


def test_few_pairs_use_the_svd_alone(model: nn.Module) -> None:
    method, client = chameleon(federated=False), KnownClient(HISTORY[:6], same=3)
    adapter = method.client_attach(model, shape_of(model))  # type: ignore[arg-type]
    private, result = method.client_personalize(adapter, {}, KnownFit(client))
    assert (result.figures["pairs"], result.figures["few_pairs"]) == (3, 1)
    assert not any(name.startswith("ccs_loss") for name in result.figures)
    assert private["private_edit.layer"].tolist() == [1, 2]  # '2 spread' in three blocks
    assert torch.allclose(private["private_edit.N"].norm(dim=1), torch.ones(2), atol=1e-5)


def test_a_group_with_few_pairs_uses_the_svd_alone(model: nn.Module) -> None:
    edit = run_rounds(chameleon(), [KnownClient(HISTORY[:6], same=3)], model)
    assert edit["shared_edit.layer"].tolist() == [1, 2]  # '2 spread' in three blocks
    assert torch.allclose(edit["shared_edit.P"].norm(dim=1), torch.ones(2), atol=1e-5)
    assert not edit["shared_edit.N"].any()


def test_chameleon_records_pairs_losses_layers_and_the_edits_effect(model: nn.Module) -> None:
    method = chameleon(federated=False)
    adapter = method.client_attach(model, shape_of(model))  # type: ignore[arg-type]
    _, result = method.client_personalize(adapter, {}, KnownFit(KnownClient()))
    assert set(result.figures) == {
        *("pairs", "discarded", "few_pairs", "loss_before", "loss_after"),
        *(f"ccs_loss.{layer}" for layer in range(LAYERS)),
        *("layer.0", "layer.1"),
    }
    assert adapter.strength == 1.0
