"""Edits of hidden states on real decoders of every family, and the edits' arithmetic by hand."""

import pytest
import torch
from torch import nn
from transformers import OPTConfig, PretrainedConfig

from fl_clients.backbone.load import shape_of
from strategies.blocks import find_attention_output, find_blocks, find_mlp
from strategies.steering.added_vector import AddedVector
from strategies.steering.edited_mlps import EditedMlps
from strategies.steering.heads import EditedHeads, strongest_heads
from tests.strategies.shifts.test_sites import FAMILIES, IDS, PROMPT, build

WITH_MLP = [config for config in FAMILIES if not isinstance(config, OPTConfig)]


def output_of(model: nn.Module, module: nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    """Return what a module returns, after its hooks, when the model runs."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_hook(
        lambda _module, _args, output: seen.append(output if isinstance(output, torch.Tensor) else output[0])
    )
    model(input_ids=ids)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
@torch.no_grad()
def test_a_vector_is_added_from_the_last_prompt_token_on(config: PretrainedConfig) -> None:
    model = build(config)
    block = find_blocks(model)[1]
    before = output_of(model, block)
    adapter = AddedVector(model, 1, 16)
    adapter.v.copy_(torch.arange(16.0))
    assert torch.equal(output_of(model, block), before)
    with adapter.active(PROMPT):
        steered = output_of(model, block)
    # The prompt is tokens 0 to 3; its last one predicts the answer's first.
    assert torch.equal(steered[:, :3], before[:, :3])
    assert torch.allclose(steered[:, 3:], before[:, 3:] + torch.arange(16.0), atol=1e-5)
    with adapter.active(torch.zeros_like(PROMPT)):
        assert torch.allclose(output_of(model, block), before + torch.arange(16.0), atol=1e-5)


@pytest.mark.parametrize("config", WITH_MLP, ids=lambda config: config.model_type)
@torch.no_grad()
def test_an_mlps_output_is_doubled_along_one_direction_and_loses_another(config: PretrainedConfig) -> None:
    model = build(config)
    network = find_mlp(find_blocks(model)[2])
    before = output_of(model, network)
    adapter = EditedMlps(model, 16, 1.0)
    personal, neutral = torch.eye(16)[:1], torch.eye(16)[1:2]
    adapter.edit(torch.tensor([2]), personal, neutral)
    assert torch.equal(output_of(model, network), before)
    with adapter.active(PROMPT):
        edited = output_of(model, network)
    expected = before.clone()
    expected[..., 0] *= 2
    expected[..., 1] = 0
    assert torch.allclose(edited, expected, atol=1e-5)
    adapter.edit(torch.zeros(0), torch.zeros(0, 16), torch.zeros(0, 16))
    with adapter.active(PROMPT):
        assert torch.equal(output_of(model, network), before)


@torch.no_grad()
def test_directions_that_are_not_orthogonal_are_applied_one_after_the_other() -> None:
    model = build(WITH_MLP[0])
    adapter = EditedMlps(model, 16, 1.0)
    both = torch.full((1, 16), 0.25)  # of length 1
    adapter.edit(torch.tensor([0]), both, both)
    network = find_mlp(find_blocks(model)[0])
    with adapter.active(PROMPT):
        edited = output_of(model, network)
    # Doubled first, then removed: nothing is left along it.
    assert (edited @ both[0]).abs().max() < 1e-5


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
@torch.no_grad()
def test_heads_are_scaled_and_get_biases_before_the_projection(config: PretrainedConfig) -> None:
    model = build(config)
    shape = shape_of(model)
    size = shape.head_size
    seen: list[torch.Tensor] = []
    adapter = EditedHeads(model, shape.heads, 2)
    projection = find_attention_output(find_blocks(model)[1])
    projection.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    model(input_ids=IDS)
    adapter.A[1, :size] = 0.5
    adapter.get_buffer("chosen").copy_(torch.tensor([1 * shape.heads + 1, 2 * shape.heads]))
    adapter.biases["collective"][0] = 3.0
    adapter.biases["personal"][0] = -1.0
    with adapter.active(PROMPT):
        model(input_ids=IDS)
    before, after = seen
    assert torch.allclose(after[..., :size], 1.5 * before[..., :size], atol=1e-5)
    assert torch.allclose(after[..., size:], before[..., size:] + 2.0, atol=1e-5)


def test_strongest_heads_by_hand() -> None:
    # Two blocks of two heads of size 2, with norms 5, 1, 0 and 2.
    A = torch.tensor([[3.0, 4.0, 0.0, 1.0], [0.0, 0.0, -2.0, 0.0]])
    assert strongest_heads(A, 2, 2).tolist() == [0, 3]
    assert strongest_heads(A, 2, 3).tolist() == [0, 1, 3]
