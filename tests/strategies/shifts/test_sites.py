"""Shifts on real decoders of every family: the base is untouched, and only prompts are shifted."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
)

from configs.seeds import derive_seed
from fl_clients.backbone.load import Backbone
from strategies.blocks import find_blocks
from strategies.method import BackboneShape
from strategies.perfit import PerFit
from strategies.shifts.positions import Positions
from strategies.shifts.sites import SiteShifts
from strategies.spacing import read_sites

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 30,
    "pad_token_id": 0,
}
FAMILIES = [
    LlamaConfig(**SMALL),
    Qwen2Config(**SMALL),
    MistralConfig(**SMALL),
    GemmaConfig(**SMALL, head_dim=8),
    Phi3Config(**SMALL),
    GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=30),
    OPTConfig(
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        vocab_size=30,
        word_embed_proj_dim=16,
    ),
]
SHAPE = BackboneShape(hidden=16, blocks=3, parameters=1)
IDS = torch.arange(2, 14).reshape(2, 6)
PROMPT = torch.tensor([[True] * 4 + [False] * 2] * 2)


def perfit(**changes: object) -> PerFit:
    values = {
        "sites": [1, 2],
        "positions": "all",
        "rank_shared": 3,
        "rank_private": 2,
        "joint_private_init": True,
        "aggregation": "mean",
        "seed": 0,
    }
    return PerFit(**(values | changes))


def build(config: PretrainedConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_logits_equal_the_bare_backbones_while_shifts_are_the_identity(
    config: PretrainedConfig,
) -> None:
    model, method = build(config), perfit()
    with torch.no_grad():
        bare = model(IDS).logits
        adapter = method.client_attach(model, SHAPE)
        method.client_load(adapter, method.server_init(SHAPE), None)
        with adapter.active(PROMPT):
            torch.testing.assert_close(model(IDS).logits, bare, rtol=0, atol=0)


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_a_shift_acts_only_from_its_position_on(config: PretrainedConfig) -> None:
    model, method = build(config), perfit(positions="l1")
    adapter = method.client_attach(model, SHAPE)
    shared = method.server_init(SHAPE)
    for name in shared:
        if name.endswith(".b"):
            shared[name] += 3.0
    method.client_load(adapter, shared, None)
    with torch.no_grad():
        bare = model(IDS).logits
        with adapter.active(PROMPT):
            shifted = model(IDS).logits
        after = model(IDS).logits
    # Position 3 is the last prompt token: with causal attention, earlier positions do not change.
    torch.testing.assert_close(shifted[:, :3], bare[:, :3], rtol=0, atol=0)
    assert (shifted[:, 3:] - bare[:, 3:]).abs().max() > 1e-3
    torch.testing.assert_close(after, bare, rtol=0, atol=0)


def test_a_model_without_a_list_of_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Linear: no decoder blocks found \(a list of some modules\)"):
        find_blocks(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": [3]}, "blocks 0 to 2"),
        ({"sites": [-1]}, "blocks 0 to 2"),
        ({"private_sites": [3]}, r"^private_sites=\[3\]: the backbone has blocks 0 to 2"),
        ({"rank_shared": 17}, "rank.shared=17: the backbone's hidden size is 16"),
        ({"rank_private": 0}, "rank.private=0"),
    ],
)
def test_settings_that_do_not_fit_the_backbone_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        perfit(**changes).check(SHAPE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": []}, "sites="),
        ({"sites": [1, 1]}, "sites="),
        ({"aggregation": "median"}, "expected one of mean, procrustes, function"),
        ({"positions": "x3"}, "positions="),
    ],
)
def test_settings_that_are_invalid_for_every_backbone_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        perfit(**changes)


def test_only_the_collective_shift_is_sent_without_joint_private_init() -> None:
    assert all(name.startswith("shared_collective.") for name in perfit(joint_private_init=False).server_init(SHAPE))


def test_seeds_differ_by_purpose_and_not_by_machine() -> None:
    assert derive_seed(0, "start", "collective", 1) == 9205901390749777175
    assert derive_seed(0, "a", 12) != derive_seed(0, "a1", 2)


@pytest.mark.parametrize(
    ("given", "blocks", "sites"),
    [
        ([3, 1], 4, [3, 1]),
        ("every 4", 30, [4, 8, 12, 16, 20, 24, 28]),
        ("6 spread", 30, [4, 8, 12, 16, 20, 24]),
        ("6 spread", 12, [2, 3, 5, 6, 8, 10]),
        ("6 spread", 4, [1, 2, 3]),
        ("1 spread", 32, [26]),
    ],
)
def test_a_spacing_fits_any_number_of_blocks(given: str | list[int], blocks: int, sites: list[int]) -> None:
    assert read_sites(given, blocks) == sites


@pytest.mark.parametrize(("given", "message"), [("every 4", "gives no site in 4 blocks"), ("some", "expected a list")])
def test_a_spacing_that_gives_no_site_is_refused(given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_sites(given, 4)


def test_shifts_may_have_sites_of_their_own(tiny: Backbone) -> None:
    adapter = SiteShifts(tiny.model, Positions(None, None), 16, {"a": {1: 2, 3: 5}, "b": {2: 4}})
    assert (adapter.sites("a"), adapter.sites("b"), adapter.every_site()) == (["1", "3"], ["2"], ["1", "2", "3"])
    assert adapter.chain("2") == [adapter.shift("b", "2")]
    assert adapter.shift("a", "3").R.shape == (5, 16)
    assert adapter.frozen_blocks == 2


def test_ranks_may_differ_by_site(tiny: Backbone) -> None:
    method = PerFit([1, 3], "all", [2, 5], 4, False, "mean", 0, private_sites=[2])
    # 2rd + r with d = 16: sites of ranks 2 and 5, then one site of rank 4.
    assert method.shared_parameters(tiny.shape) == (2 * 2 * 16 + 2) + (2 * 5 * 16 + 5)
    assert method.private_parameters(tiny.shape) == 2 * 4 * 16 + 4
    state = method.server_init(tiny.shape)
    assert {name: tuple(value.shape) for name, value in state.items() if name.endswith("R")} == {
        "shared_collective.1.R": (2, 16),
        "shared_collective.3.R": (5, 16),
    }
    with pytest.raises(ValueError, match=r"rank.shared=\[2\]: expected one rank, or 2, one for each of the sites"):
        PerFit([1, 3], "all", [2], 4, False, "mean", 0)
    with pytest.raises(ValueError, match=r"rank.private=17: the backbone's hidden size is 16"):
        PerFit([1, 3], "all", 2, 17, False, "mean", 0).check(tiny.shape)
