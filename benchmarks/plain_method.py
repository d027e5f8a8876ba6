"""PerFit whose clients work as `benchmarks/plain.py` does: the plain variant of a whole simulation."""

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
    """PerFit; in the client's process, which is a run's own, training and scoring are the plain ones."""

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> SiteShifts:
        """Attach, and put the plain functions in the place of ours."""
        setattr(fit, "answer_loss", _loss)  # noqa: B010 (to mypy a module's function is no variable)
        setattr(evaluate, "score_labels", _score_labels)  # noqa: B010
        return super().client_attach(model, backbone)
