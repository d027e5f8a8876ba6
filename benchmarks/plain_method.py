"""PerFit with the local work of `benchmarks/plain.py`: the plain variant of a whole simulation."""

from collections.abc import Sequence

import torch
from torch import nn

from benchmarks import plain
from fl_clients import evaluate, fit
from fl_clients.backbone.batches import Example
from fl_clients.backbone.forward import Forward
from strategies.method import Adapter, BackboneShape
from strategies.perfit import PerFit
from strategies.shifts.sites import SiteShifts


def _loss(forward: Forward, adapter: Adapter, examples: Sequence[Example]) -> torch.Tensor:
    return plain.loss(forward.backbone, adapter, examples)


def _score_labels(
    forward: Forward, adapter: Adapter | None, prompts: Sequence[list[int]], labels: Sequence[list[int]]
) -> torch.Tensor:
    return plain.score_labels(forward.backbone, adapter, prompts, labels)


class PlainPerFit(PerFit):
    """PerFit with plain training and scoring in the client's process, which belongs to one run only."""

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> SiteShifts:
        """Attach, and replace fedperfit's functions by the plain ones."""
        setattr(fit, "answer_loss", _loss)  # noqa: B010 (mypy refuses to assign to a module's function)
        setattr(evaluate, "score_labels", _score_labels)  # noqa: B010
        return super().client_attach(model, backbone)
