"""Trains the same shift in terms of R and W, and of R and D = W − R, and draws the losses by step.

`python -m benchmarks.conditioning` writes `conditioning.json` and `conditioning.svg` to `results/conditioning`. Central
training on synthetic movie tagging: 60 users with 8 items each, 60 steps of 8 examples; the loss is on 64 items of 16
other users, in nats per answer token.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from configs.load import load_config
from configs.training import FitConfig
from fl_clients.backbone.batches import Encoder, Example
from fl_clients.backbone.forward import Forward
from fl_clients.backbone.load import Backbone, load
from fl_clients.fit import LocalFit, answer_loss
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user_table import open_user
from strategies import shifts
from strategies.blocks import find_blocks
from strategies.perfit import COLLECTIVE, PerFit
from strategies.shifts.shift import Shift, retract
from strategies.shifts.sites import SiteShifts

USERS, ITEMS, OTHERS, OTHER_ITEMS = 60, 8, 16, 4
EVERY = 10
"""Steps between two measurements of the loss on others' items."""
FORMS = {"R and W": False, "R and D": True}
SITES = {"sites 10 and 12, rank 32": ([10, 12], 32), "6 spread, rank 11": ("6 spread", 11)}


class DirectShift(Shift):
    """The same function with W as its parameter."""

    def __init__(self, hidden: int, rank: int) -> None:
        super().__init__(hidden, rank)
        self.V = nn.Parameter(torch.eye(rank, hidden))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return φ(x) for x of shape [..., d]."""
        inside = x.float()
        return x + ((inside @ (self.V - self.R).T + self.b) @ self.R).to(x.dtype)

    @torch.no_grad()
    def retract(self) -> None:
        """Retract R, without changing φ."""
        R, W, b = retract(self.R, self.V, self.b)
        self.R.copy_(R)
        self.V.copy_(W)
        self.b.copy_(b)


def examples_of(backbone: Backbone, seed: int) -> tuple[list[Example], list[Example]]:
    """Return the training examples and the others' examples."""
    words = [f"users.collective={USERS}", f"users.target={OTHERS}", f"users.synthetic.history={ITEMS}"]
    config = load_config(None, [*words, "cohort=1", f"seed={seed}"])
    table, encoder = build_table(config), Encoder(find_task(config.task), backbone.tokenizer)

    def read(users: range, items: int) -> list[Example]:
        pairs = [pair for user in users for pair in open_user(table.folder, user).history[:items]]
        return encoder.examples(pairs, config.local.max_tokens)

    return read(range(USERS), ITEMS), read(range(USERS, USERS + OTHERS), OTHER_ITEMS)


def curve(backbone: Backbone, sites: Any, rank: int, split: bool, lr: float, seed: int) -> list[tuple[int, float]]:
    """Train one shift and return (step, loss on others' items)."""
    for block in find_blocks(backbone.model):
        block._forward_hooks.clear()
    method = PerFit(shifts.read_sites(sites, backbone.shape.blocks), "all", rank, 1, False, "mean", seed)
    ranks = {COLLECTIVE: method.ranks[COLLECTIVE]}
    with patch("strategies.shifts.sites.Shift", Shift if split else DirectShift):
        adapter = SiteShifts(backbone.model, method.positions, backbone.shape.hidden, ranks)
    chain: Any = adapter.shifts[COLLECTIVE]
    start = method.server_init(backbone.shape)
    shifts.load(adapter, COLLECTIVE, start, f"shared_{COLLECTIVE}")
    for shift in chain.values():
        if isinstance(shift, DirectShift):
            shift.V.data.copy_(shift.R)
    training, others = examples_of(backbone, seed)
    forward = Forward(backbone, None)
    points: list[tuple[int, float]] = []

    def measure(step: int) -> None:
        with torch.no_grad():
            losses = [float(answer_loss(forward, adapter, others[i : i + 16])) for i in range(0, len(others), 16)]
        points.append((step, sum(losses) / len(losses)))

    parts = [(shift.R, shift.D if split else shift.V, shift.b) for shift in chain.values()]
    done = 0

    def after_step() -> None:
        nonlocal done
        for shift in chain.values():
            shift.retract()
        done += 1
        if done % EVERY == 0:
            measure(done)

    measure(0)
    fit = LocalFit(forward, adapter, training, FitConfig(epochs=1, batch_size=8, lr=lr), seed)
    fit([parameter for part in parts for parameter in part], after_step)
    return points


def draw(report: dict[str, Any], out: Path) -> None:
    """Draw the losses by step, one panel per placement of the sites."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(report["curves"]), figsize=(9, 3.6), sharey=True)
    for panel, (title, forms) in zip(panels, report["curves"].items(), strict=True):
        for (name, seeds), style in zip(forms.items(), ("--", "-"), strict=True):
            for seed, points in seeds.items():
                panel.plot(*zip(*points, strict=True), style, color=f"C{seed}", label=f"{name}, seed {seed}")
        panel.set(title=title, xlabel="step", yscale="log")
    panels[0].set_ylabel("loss on others' items (nats)")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(out / "conditioning.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/conditioning"))
    parser.add_argument("--backbone", default="smollm2-135m")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--sites", help="a spacing, with --rank instead of both placements")
    parser.add_argument("--rank", type=int)
    args = parser.parse_args()
    if (args.sites is None) != (args.rank is None):
        parser.error("--sites and --rank go together: a placement needs both")
    args.out.mkdir(parents=True, exist_ok=True)
    backbone = load(args.backbone, args.precision)
    report: dict[str, Any] = {"backbone": args.backbone, "precision": args.precision, "lr": args.lr, "curves": {}}
    chosen = {f"{args.sites}, rank {args.rank}": (args.sites, args.rank)} if args.sites else SITES
    for title, (sites, rank) in chosen.items():
        for name, split in FORMS.items():
            for seed in map(int, args.seeds.split(",")):
                points = curve(backbone, sites, rank, split, args.lr, seed)
                report["curves"].setdefault(title, {}).setdefault(name, {})[seed] = points
                print(f"{title}, {name}, seed {seed}: {points[0][1]:.3f} to {points[-1][1]:.3f}", flush=True)
                (args.out / "conditioning.json").write_text(json.dumps(report, indent=1) + "\n")
    if len(chosen) > 1:
        draw(report, args.out)


if __name__ == "__main__":
    main()
