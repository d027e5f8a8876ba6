"""A user's shift without a collective one, and on top of a collective LoRA; training only adds 1."""

import torch

from strategies.lora.common import COLLECTIVE
from strategies.lora_reft import LoraReft
from strategies.method import TrainRequest
from strategies.perfit import PerFit
from strategies.reft_p import ReftP
from strategies.shifts.sites import SiteShifts
from tests.strategies.toy import SETTINGS, SHAPE, AddOne, Model, Q, V, product, products, some

SHIFTS = {"sites": [0, 1], "positions": "all", "rank_private": 2, "seed": 0}


def parameters_of(adapter: SiteShifts) -> list[int]:
    shifts = [adapter.shift("personal", site) for site in adapter.sites("personal")]
    return [id(parameter) for shift in shifts for parameter in (shift.R, shift.D, shift.b)]


def test_reft_p_trains_what_perfit_trains_after_a_stage_1_that_learned_nothing() -> None:
    alone, method = ReftP(**SHIFTS), PerFit(**SHIFTS, rank_shared=1, joint_private_init=False, aggregation="mean")
    adapter, other = alone.client_attach(Model(), SHAPE), method.client_attach(Model(), SHAPE)
    fit = AddOne()
    private, _ = alone.client_personalize(adapter, {}, fit)
    assert fit.trained == parameters_of(adapter)
    expected, _ = method.client_personalize(other, method.server_init(SHAPE), AddOne())
    torch.testing.assert_close(private, expected)


def test_without_private_tensors_a_shift_is_the_identity() -> None:
    method = ReftP(**SHIFTS)
    adapter = method.client_attach(Model(), SHAPE)
    private, _ = method.client_personalize(adapter, {}, AddOne())
    hidden = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    method.client_load(adapter, {}, private)
    assert (adapter.shift("personal", "0")(hidden) - hidden).abs().max() > 0.1
    method.client_load(adapter, {}, None)
    torch.testing.assert_close(adapter.shift("personal", "0")(hidden), hidden)


def test_lora_reft_trains_a_lora_for_all_then_a_shift_on_top_of_it() -> None:
    method = LoraReft(**SETTINGS, **{key: value for key, value in SHIFTS.items() if key != "seed"})
    adapter = method.client_attach(Model(), SHAPE)
    fit = AddOne(adapter.lora)
    shared = some(method.server_init(SHAPE))
    collective = {module: product(shared, "shared_lora", module) for module in (Q, V)}
    trained = method.client_train(adapter, TrainRequest(1, shared, {}, fit))
    torch.testing.assert_close(fit.before, collective)
    assert fit.trained == [id(parameter) for parameter in adapter.lora.trainable(COLLECTIVE)]
    torch.testing.assert_close(trained.shared, {name: value + 1 for name, value in shared.items()})

    later = AddOne(adapter.lora)
    private, _ = method.client_personalize(adapter, shared, later)
    torch.testing.assert_close(later.before, collective)
    assert later.trained == parameters_of(adapter.shifts)
    assert {name.partition(".")[0] for name in private} == {"private_personal"}
    method.client_load(adapter, shared, private)
    torch.testing.assert_close(products(adapter.lora), collective)
    hidden = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    assert (adapter.shifts.shift("personal", "0")(hidden) - hidden).abs().max() > 0.1
    method.client_load(adapter, shared, None)
    torch.testing.assert_close(adapter.shifts.shift("personal", "0")(hidden), hidden)


def test_blocks_below_both_adapters_stay_frozen() -> None:
    # LoRA in block 1, a shift on the output of block 0: only block 0 itself is never touched.
    changed = {**SETTINGS, "targets": ["v_proj"], **{**SHIFTS, "sites": [0]}}
    assert LoraReft(**changed).client_attach(Model(), SHAPE).frozen_blocks == 1
    changed = {**SETTINGS, "targets": ["q_proj"], **{**SHIFTS, "sites": [1]}}
    assert LoraReft(**changed).client_attach(Model(), SHAPE).frozen_blocks == 0
