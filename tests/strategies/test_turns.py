"""What a client starts from, trains, sends and keeps in one round, by method; training only adds 1."""

import pytest
import torch

from strategies import lora
from strategies.fdlora import FdLora, OuterStep
from strategies.fed_sb import FedSb, first_singular_vectors
from strategies.fedex_lora import FedexLora
from strategies.fedsa_lora import FedsaLora
from strategies.ffa_lora import FfaLora
from strategies.flora import Flora
from strategies.lora.common import COLLECTIVE
from strategies.lora_p import LoraP
from strategies.method import TrainRequest
from strategies.oppu import Oppu
from tests.strategies.toy import SETTINGS, SHAPE, AddOne, Model, Q, V, attached, product, products, some

FUSION = {"sync_every": 2, "outer_lr": 1.0, "outer_momentum": 0.5, "fusion_trials": 12, "fusion_batches": 1}


def test_oppu_trains_the_collective_adapter_then_a_personal_one_on_top_of_it() -> None:
    method = Oppu(**SETTINGS, private_targets=["q_proj"])
    adapter, fit = attached(method)
    shared = some(method.server_init(SHAPE))
    collective = {module: product(shared, "shared_lora", module) for module in (Q, V)}
    trained = method.client_train(adapter, TrainRequest(1, shared, {}, fit))
    torch.testing.assert_close(fit.before, collective)
    torch.testing.assert_close(trained.shared, {name: value + 1 for name, value in shared.items()})
    assert trained.client_state is None

    fit = AddOne(adapter)
    private, _ = method.client_personalize(adapter, shared, fit)
    torch.testing.assert_close(fit.before, collective)
    assert fit.trained == [id(parameter) for parameter in adapter.trainable("personal")]
    assert private.keys() == {f"private_lora.{Q}.A", f"private_lora.{Q}.B"}
    method.client_load(adapter, shared, private)
    torch.testing.assert_close(
        products(adapter), {**collective, Q: collective[Q] + product(private, "private_lora", Q)}
    )
    method.client_load(adapter, shared, None)
    torch.testing.assert_close(products(adapter), collective)


def test_oppus_personal_adapter_is_in_the_chosen_blocks_too() -> None:
    method = Oppu(**{**SETTINGS, "blocks": [1]}, private_targets=["v_proj"])
    assert method.personal.on(SHAPE).modules == (V,)
    with pytest.raises(ValueError, match=r"settings.blocks=\[1\]: no q_proj in these blocks"):
        Oppu(**{**SETTINGS, "blocks": [1]}, private_targets=["q_proj"]).check(SHAPE)


def test_lora_p_has_only_a_personal_adapter() -> None:
    method = LoraP(**SETTINGS)
    adapter, fit = attached(method)
    private, _ = method.client_personalize(adapter, {}, fit)
    torch.testing.assert_close(fit.before, {Q: torch.zeros(5, 6), V: torch.zeros(3, 6)})
    method.client_load(adapter, {}, private)
    torch.testing.assert_close(
        products(adapter), {module: product(private, "private_lora", module) for module in (Q, V)}
    )


def test_fdloras_opening_round_trains_theta_p_from_the_common_start() -> None:
    method = FdLora(**SETTINGS, **FUSION, fusion_penalty=0.0)
    adapter, fit = attached(method)
    begin = method.server_init(SHAPE)
    opening = method.client_train(adapter, TrainRequest(0, {}, {}, fit))
    torch.testing.assert_close(opening.shared, {name: value + 1 for name, value in begin.items()})
    assert opening.client_state is not None
    torch.testing.assert_close(
        opening.client_state, {name.replace("shared", "kept"): value for name, value in opening.shared.items()}
    )
    # The opening round is averaged; in later rounds the server takes outer steps.
    assert not isinstance(method.server_aggregator(begin, 0), OuterStep)
    assert isinstance(method.server_aggregator(begin, 1), OuterStep)


def test_fdloras_rounds_train_theta_s_and_keep_it_every_second_round() -> None:
    method = FdLora(**SETTINGS, **FUSION, fusion_penalty=0.0)
    adapter, fit = attached(method)
    shared = some(method.server_init(SHAPE))
    kept = {name.replace("shared", "kept"): value for name, value in some(shared, 2).items()}
    first = method.client_train(adapter, TrainRequest(1, shared, kept, fit))
    torch.testing.assert_close(fit.before, {module: product(shared, "shared_lora", module) for module in (Q, V)})
    torch.testing.assert_close(first.shared, {name: value + 1 for name, value in shared.items()})
    assert first.client_state is None
    second = method.client_train(adapter, TrainRequest(2, shared, kept, fit))
    assert second.client_state is not None
    torch.testing.assert_close(
        second.client_state, {name.replace("shared", "kept"): value for name, value in second.shared.items()}
    )


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_fdlora_fuses_both_adapters_with_the_weights_from_its_search(penalty: float) -> None:
    method = FdLora(**SETTINGS, **FUSION, fusion_penalty=penalty)
    adapter, _ = attached(method)
    shared = some(method.server_init(SHAPE))
    private, _ = method.client_personalize(adapter, shared, AddOne(adapter, losses=[3.0] * 12))
    w = private["private_fusion.w"]
    # Every w has the same loss. Without a penalty half of each, the first trial, wins; with one, smaller w are better.
    assert (w.tolist() == [0.5, 0.5]) == (penalty == 0)
    assert float(w.abs().mean()) < 0.5 or penalty == 0
    torch.testing.assert_close(
        private,
        {n.replace("shared", "private"): t + 1 for n, t in method.server_init(SHAPE).items()} | {"private_fusion.w": w},
    )
    private["private_fusion.w"] = torch.tensor([0.5, -2.0])
    method.client_load(adapter, shared, private)
    for module, change in products(adapter).items():
        A, B = (
            0.5 * shared[f"shared_lora.{module}.{letter}"] - 2 * private[f"private_lora.{module}.{letter}"]
            for letter in "AB"
        )
        torch.testing.assert_close(change, 2 * B @ A)


def test_fedsa_lora_sends_a_and_continues_from_its_own_b() -> None:
    method = FedsaLora(**SETTINGS)
    adapter, fit = attached(method)
    shared = some(method.server_init(SHAPE))
    assert {name[-1] for name in shared} == {"A"}
    first = method.client_train(adapter, TrainRequest(1, shared, {}, fit))
    torch.testing.assert_close(fit.before, {Q: torch.zeros(5, 6), V: torch.zeros(3, 6)})
    torch.testing.assert_close(first.shared, {name: value + 1 for name, value in shared.items()})
    assert first.client_state is not None
    assert {name[-1] for name in first.client_state} == {"B"}
    method.client_train(adapter, TrainRequest(2, shared, first.client_state, fit))
    # B was 0 and is now 1 everywhere.
    torch.testing.assert_close(
        fit.before, {m: 2 * torch.ones(SHAPE.linears[m][1], 2) @ shared[f"shared_lora.{m}.A"] for m in (Q, V)}
    )


def test_ffa_lora_trains_only_b() -> None:
    method = FfaLora(**SETTINGS)
    adapter, fit = attached(method)
    shared = some(method.server_init(SHAPE))
    trained = method.client_train(adapter, TrainRequest(1, shared, {}, fit))
    assert fit.trained == [id(parameter) for parameter in adapter.trainable(COLLECTIVE, letters="B")]
    torch.testing.assert_close(trained.shared, {name: value + 1 for name, value in shared.items()})
    first = lora.start(method.lora.on(SHAPE), SHAPE, "x", 0, COLLECTIVE)
    torch.testing.assert_close(
        adapter.state(COLLECTIVE, "x", letters="A"), {name: t for name, t in first.items() if name.endswith("A")}
    )


def test_the_first_singular_vectors_of_a_weight_have_fixed_signs() -> None:
    # 3 e₁f₂ᵀ − 2 e₂f₁ᵀ: singular values 3 and 2; of ±e₂ the positive one is taken, so f₁ is negative.
    U, Vt = first_singular_vectors(torch.tensor([[0.0, 3, 0], [-2, 0, 0]]), 2)
    torch.testing.assert_close(U, torch.eye(2))
    torch.testing.assert_close(Vt, torch.tensor([[0.0, 1, 0], [-1, 0, 0]]))
    torch.testing.assert_close(first_singular_vectors(torch.tensor([[0.0, 3, 0], [-2, 0, 0]]), 1), (U[:, :1], Vt[:1]))


def test_fed_sb_trains_only_the_matrix_between_its_bases() -> None:
    method = FedSb(**{key: value for key, value in SETTINGS.items() if key != "seed"})
    model = Model()
    adapter = method.client_attach(model, SHAPE)
    fit = AddOne(adapter)
    shared = some(method.server_init(SHAPE))
    trained = method.client_train(adapter, TrainRequest(1, shared, {}, fit))
    torch.testing.assert_close(trained.shared, {name: value + 1 for name, value in shared.items()})
    for index, (module, kind) in enumerate(((Q, "q_proj"), (V, "v_proj"))):
        U, Vt = first_singular_vectors(getattr(model.layers[index], kind).base_layer.weight, 2)
        M = shared[f"shared_core.{module}.M"]
        torch.testing.assert_close(fit.before[module], 2 * U @ M @ Vt)  # α/r = 2
        torch.testing.assert_close(products(adapter)[module], 2 * U @ (M + 1) @ Vt)


def test_fed_sbs_gradient_is_that_of_the_matrix_between() -> None:
    method = FedSb(**{key: value for key, value in SETTINGS.items() if key != "seed"})
    model = Model()
    adapter = method.client_attach(model, SHAPE)
    adapter.use(COLLECTIVE)
    x, g = torch.randn(4, 6), torch.randn(4, 5)
    M = adapter.factor(COLLECTIVE, Q, "A").parametrizations.weight.original.requires_grad_(True)
    with adapter.active(torch.ones(1, 1, dtype=torch.bool)):
        model.layers[0].q_proj(x).backward(g)
    U, Vt = first_singular_vectors(model.layers[0].q_proj.base_layer.weight, 2)
    torch.testing.assert_close(M.grad, 2 * U.T @ g.T @ x @ Vt.T)


@pytest.mark.parametrize("method", [Flora(**SETTINGS), FedexLora(**SETTINGS)], ids=["flora", "fedex-lora"])
def test_received_changes_are_merged_before_training_and_kept(method: Flora | FedexLora) -> None:
    adapter, fit = attached(method)
    change = {"shared_base.layers.0.q_proj.W": torch.ones(5, 6)}
    kept = {"kept_base.layers.0.q_proj.W": 2 * torch.ones(5, 6)}
    mean = some(method.server_init(SHAPE)) if isinstance(method, FedexLora) else {}
    trained = method.client_train(adapter, TrainRequest(3, mean | change, kept, fit))
    own = {m: product(mean, "shared_lora", m) if mean else torch.zeros(SHAPE.linears[m][::-1]) for m in (Q, V)}
    torch.testing.assert_close(fit.before, {Q: own[Q] + 3, V: own[V]})
    assert trained.client_state is not None
    torch.testing.assert_close(trained.client_state, {"kept_base.layers.0.q_proj.W": 3 * torch.ones(5, 6)})


def test_fedex_lora_serves_the_mean_adapter_on_the_merged_weights() -> None:
    method = FedexLora(**SETTINGS)
    adapter, _ = attached(method)
    mean = some(method.server_init(SHAPE))
    method.client_load(adapter, mean | {"shared_base.layers.0.q_proj.W": torch.ones(5, 6)}, None)
    torch.testing.assert_close(
        products(adapter), {Q: product(mean, "shared_lora", Q) + 1, V: product(mean, "shared_lora", V)}
    )


def test_floras_clients_start_from_the_servers_expected_factors_in_every_round() -> None:
    method = Flora(**SETTINGS)
    adapter, fit = attached(method)
    state = method.server_init(SHAPE)
    starts = []
    for number in (1, 2):
        aggregator = method.server_aggregator(state, number)
        trained = method.client_train(adapter, TrainRequest(number, method.server_send(state, 0), {}, fit))
        torch.testing.assert_close(trained.shared, {name: value + 1 for name, value in aggregator.expected.items()})
        aggregator.add(0, trained.shared, 1)
        state, _ = aggregator.result()
        starts.append(aggregator.expected[f"shared_lora.{Q}.A"])
    assert not torch.equal(*starts)
