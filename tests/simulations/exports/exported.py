"""What the tests of exports share: a prompt, and the logits that a run and a plain model give it."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from fl_clients.backbone.load import find
from simulations.run.served import load_served_model

PROMPT = torch.tensor([list(range(10, 40))])
STEERING = {
    "stylevector": ("settings.strength=5.0",),
    "lofit": ("settings.heads=3",),
    "chameleon": ("settings.federated=false", "settings.layers=2", "settings.items=6", "settings.ccs_steps=4"),
}


def user_at(folder: Path, partition: int) -> str:
    return str(pq.read_table(folder / "users.parquet")["user_id"][partition].as_py())


def first_target(folder: Path) -> str:
    return user_at(folder, 6)


def plain() -> Any:
    return AutoModelForCausalLM.from_pretrained(find("tiny")).eval()


@torch.no_grad()
def served_logits(folder: Path, user: str | None) -> torch.Tensor:
    served = load_served_model(folder, user)
    with served.adapter.active(torch.ones_like(PROMPT, dtype=torch.bool)):
        return torch.as_tensor(served.backbone.model(PROMPT).logits)


@torch.no_grad()
def logits_of(model: nn.Module) -> torch.Tensor:
    return torch.as_tensor(model(PROMPT).logits)


def assert_same_and_not_bare(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)
    assert (ours - logits_of(plain())).abs().max() > 1e-3
