"""Trains shifts of about 7,000 numbers: of rank 1, r×r matrices between fixed bases, and in a random subspace.

`python -m benchmarks.fixed_bases` prints the loss on others' items after 60 steps of `benchmarks.conditioning`. The
function is x + Rᵀ(MVx + b): R and V have fixed orthonormal rows, M [r, r] and b are trained. Bases: `read`, what the
next block's weights read most; `written`, what this block's weights write most (first singular vectors, both weights
scaled to norm 1); `random`. In the subspace, each of the numbers of R, D and b of rank 12 is its start and ±z_j, for
one of 1,153 numbers z_j per site, drawn by seed.
"""

import argparse
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.conditioning import examples_of
from configs.training import FitConfig
from fl_clients.backbone.forward import Forward
from fl_clients.backbone.load import Backbone, load
from fl_clients.fit import LocalFit, answer_loss
from strategies import shifts
from strategies.blocks import find_blocks
from strategies.perfit import COLLECTIVE, PerFit
from strategies.shifts.shift import Shift, random_orthonormal
from strategies.shifts.sites import SiteShifts

SITES = "6 spread"
PLACES = 1153
RANK = 34
"""6·(34² + 34) = 7,140 numbers; rank 1 with R and W has 6·(2·576 + 1) = 6,918."""


class Between(Shift):
    """φ with D = MV, V fixed."""

    def __init__(self, hidden: int, rank: int) -> None:
        super().__init__(hidden, rank)
        self.M = nn.Parameter(torch.zeros(rank, rank))
        self.V = nn.Parameter(torch.eye(rank, hidden), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return φ(x) for x of shape [..., d]."""
        return x + ((x.float() @ self.V.T @ self.M.T + self.b) @ self.R).to(x.dtype)


class Sketched(Shift):
    """φ with (R, D, b) = start + S z, S with one ±1 in every row."""

    def __init__(self, hidden: int, rank: int) -> None:
        super().__init__(hidden, rank)
        self.z = nn.Parameter(torch.zeros(PLACES))
        size, generator = rank * (2 * hidden + 1), torch.Generator().manual_seed(rank)
        self.place = torch.randint(PLACES, (size,), generator=generator)
        self.sign = 2.0 * torch.randint(2, (size,), generator=generator) - 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return φ(x) for x of shape [..., d]."""
        rank, hidden = self.R.shape
        R, D, b = (self.sign * self.z[self.place]).split([rank * hidden, rank * hidden, rank])
        inside = x.float() @ (self.D + D.view(rank, hidden)).T + self.b + b
        shift: torch.Tensor = inside @ (self.R + R.view(rank, hidden))
        return x + shift.to(x.dtype)


def bases(backbone: Backbone, site: int, kind: str) -> torch.Tensor:
    """Return RANK orthonormal rows of length d for one site."""
    if kind == "random":
        return random_orthonormal(RANK, backbone.shape.hidden, torch.Generator().manual_seed(site))
    blocks: Any = find_blocks(backbone.model)
    block = blocks[site + (kind == "read")]
    if kind == "read":
        attention = torch.cat([getattr(block.self_attn, f"{name}_proj").weight for name in "qkv"])
        feed = torch.cat([block.mlp.gate_proj.weight, block.mlp.up_proj.weight])
        # The norms' weights scale what is read.
        parts = [attention * block.input_layernorm.weight, feed * block.post_attention_layernorm.weight]
    else:
        parts = [block.self_attn.o_proj.weight.T, block.mlp.down_proj.weight.T]
    stacked = torch.cat([part.double() / part.double().norm() for part in parts])
    rows: torch.Tensor = torch.linalg.svd(stacked, full_matrices=False)[2][:RANK].float()
    return rows


def loss_of(backbone: Backbone, kind: str, lr: float, seed: int) -> float:
    """Train one shift on everybody's items and return the loss on others'.

    Args:
        backbone: The frozen model.
        kind: `rank 1`, `subspace`, or the bases of R and V.
        lr: Learning rate.
        seed: Of the users, the start and the order.
    """
    for block in find_blocks(backbone.model):
        block._forward_hooks.clear()
    form, rank = {"rank 1": (Shift, 1), "subspace": (Sketched, 12)}.get(kind, (Between, RANK))
    sites = shifts.read_sites(SITES, backbone.shape.blocks)
    method = PerFit(sites, "all", rank, 1, False, "mean", seed)
    with patch("strategies.shifts.sites.Shift", form):
        ranks = {COLLECTIVE: method.ranks[COLLECTIVE]}
        adapter = SiteShifts(backbone.model, method.positions, backbone.shape.hidden, ranks)
    shifts.load(adapter, COLLECTIVE, method.server_init(backbone.shape), f"shared_{COLLECTIVE}")
    chain: Any = adapter.shifts[COLLECTIVE]
    parameters: list[nn.Parameter] = []
    for site, shift in chain.items():
        if form is Shift:
            parameters += [shift.R, shift.D, shift.b]
        elif form is Sketched:
            parameters.append(shift.z)
        else:
            for letter, basis in zip("RV", kind.split(", "), strict=True):
                getattr(shift, letter).data.copy_(bases(backbone, int(site), basis))
            parameters += [shift.M, shift.b]
    training, others = examples_of(backbone, seed)
    forward = Forward(backbone, None)

    def after_step() -> None:
        for shift in chain.values() if form is Shift else ():
            shift.retract()

    LocalFit(forward, adapter, training, FitConfig(epochs=1, batch_size=8, lr=lr), seed)(parameters, after_step)
    with torch.no_grad():
        losses = [float(answer_loss(forward, adapter, others[i : i + 16])) for i in range(0, len(others), 16)]
    return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--seeds", default="0,1")
    args = parser.parse_args()
    backbone = load(args.backbone, args.precision)
    for kind in ("rank 1", "subspace", "written, written", "read, read", "read, written", "random, random"):
        for seed in map(int, args.seeds.split(",")):
            print(f"{kind}, seed {seed}: {loss_of(backbone, kind, args.lr, seed):.3f}", flush=True)


if __name__ == "__main__":
    main()
