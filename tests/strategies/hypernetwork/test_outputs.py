"""What a network's rows become: LoRA's factors, or shifts whose R is orthonormal."""

import pytest
import torch

from strategies.hypernetwork.outputs import LoraOutput, ShiftOutput
from strategies.lora.common import LoraSettings
from strategies.method import BackboneShape

LINEARS = {f"layers.{block}.attn.{name}": (4, out) for block in (0, 1) for name, out in (("q_proj", 4), ("v_proj", 2))}
BACKBONE = BackboneShape(hidden=4, blocks=3, parameters=100, linears=LINEARS)


def test_a_row_of_lora_is_cut_into_a_and_b_of_the_module_at_its_depth() -> None:
    output = LoraOutput(LoraSettings(1, 1, 0.0, ("q_proj", "v_proj"), []))
    shapes = output.shapes(BACKBONE)
    assert output.depths(shapes) == [0, 1]
    rows = {"q_proj": torch.arange(16.0).view(2, 8), "v_proj": torch.arange(12.0).view(2, 6)}
    found = output.tensors(rows, shapes)
    assert found["layers.0.attn.q_proj.A"].tolist() == [[0, 1, 2, 3]]
    assert found["layers.1.attn.q_proj.B"].tolist() == [[12], [13], [14], [15]]
    assert found["layers.1.attn.v_proj.A"].tolist() == [[6, 7, 8, 9]]
    assert found["layers.1.attn.v_proj.B"].tolist() == [[10], [11]]
    assert output.parameters(BACKBONE) == 16 + 12
    starts = output.starts(BACKBONE, 0)
    assert all(
        not start[-count:].any() and start[:-count].any() for start, count in zip(starts.values(), (4, 2), strict=True)
    )


def test_a_target_of_several_sizes_is_refused() -> None:
    backbone = BackboneShape(4, 3, 100, {"layers.0.q_proj": (4, 4), "layers.1.q_proj": (4, 8)})
    with pytest.raises(ValueError, match="q_proj differs in size from block to block"):
        LoraOutput(LoraSettings(1, 1, 0.0, ("q_proj",), [])).starts(backbone, 0)


def test_a_target_that_the_backbone_lacks_is_named_with_those_it_has() -> None:
    with pytest.raises(ValueError, match=r"no module 'gate_proj' in the backbone \(its linear modules: q_proj, v_proj"):
        LoraOutput(LoraSettings(1, 1, 0.0, ("gate_proj",), [])).shapes(BACKBONE)


def test_a_row_of_a_shift_becomes_the_same_function_with_an_orthonormal_r() -> None:
    output = ShiftOutput([0, 2], 2, "all")
    shapes = output.shapes(BACKBONE)
    rows = torch.randn(2, 2 * 8 + 2, generator=torch.Generator().manual_seed(0))
    found = output.tensors({"shift": rows}, shapes)
    x = torch.tensor([1.0, -2.0, 0.5, 3.0])
    for site, row in zip((0, 2), rows, strict=True):
        R, D, b = (found[f"{site}.{letter}"] for letter in "RDb")
        P, raw_D, raw_b = row[:8].view(2, 4), row[8:16].view(2, 4), row[16:]
        torch.testing.assert_close(R @ R.T, torch.eye(2))
        torch.testing.assert_close(R.T @ (D @ x + b), P.T @ (raw_D @ x + raw_b))


def test_a_shift_starts_as_the_identity_and_has_a_derivative_there() -> None:
    output = ShiftOutput([0, 2], 2, "all")
    start = output.starts(BACKBONE, 0)["shift"].requires_grad_()
    found = output.tensors({"shift": start.expand(2, -1)}, output.shapes(BACKBONE))
    assert not found["0.D"].any()
    assert not found["2.b"].any()
    (gradient,) = torch.autograd.grad(sum((value * torch.randn_like(value)).sum() for value in found.values()), start)
    assert torch.isfinite(gradient).all()


def test_sent_and_trained_undo_each_other() -> None:
    output = ShiftOutput([1], 2, "all")
    row = torch.randn(1, 18, generator=torch.Generator().manual_seed(1))
    trained = output.tensors({"shift": row}, output.shapes(BACKBONE))
    again = output.trained(output.sent(trained))
    assert all(torch.allclose(again[name], value, atol=1e-5) for name, value in trained.items())


def test_sites_of_different_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"rank.private=\[1, 2\]: one head writes every site"):
        ShiftOutput([0, 1], [1, 2], "all")
