"""LoRA-ReFT: a collective LoRA, then fixed, and a personalised shift on top of it (PerFit, Table 12).

With every block adapted it is the table's LoRA-C(all) + PerFit-P, with `settings.blocks` LoRA-C(partial) + PerFit-P.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from strategies import lora, shifts
from strategies.aggregation.mean import TensorMean
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import COLLECTIVE, SHARED, LoraSettings
from strategies.method import BackboneShape, Fit, FitResult, Method, Tensors, TrainRequest, TrainResult
from strategies.shifts.positions import Positions
from strategies.shifts.sites import SiteShifts

_STAGE, _PRIVATE = "personal", "private_personal"


class LoraAndShifts:
    """A LoRA inside the blocks of a frozen model and shifts on their outputs."""

    def __init__(self, lora_part: LoraAdapters, shift_part: SiteShifts) -> None:
        """Join adapters that are attached to the same model."""
        self.lora, self.shifts = lora_part, shift_part
        self.frozen_blocks = min(lora_part.frozen_blocks, shift_part.frozen_blocks)
        self.suffix: int | None = None  # LoRA touches every token
        self.row_modules = [*lora_part.row_modules, *shift_part.row_modules]

    @property
    def acting(self) -> tuple[str, ...] | None:
        """As that of `LoraAdapters`."""
        return self.lora.acting

    @acting.setter
    def acting(self, names: tuple[str, ...]) -> None:
        self.lora.acting = names

    @contextmanager
    def active(self, prompt: torch.Tensor) -> Iterator[None]:
        """Make both act inside the context."""
        with self.lora.active(prompt), self.shifts.active(prompt):
            yield

    def train(self, mode: bool = True) -> None:
        """Turn LoRA's dropout on or off."""
        self.lora.train(mode)


class LoraReft(Method):
    """W ← W + (α/r)BA as in LoRA-C, then h ↦ φ⁽²⁾(h) at every site, from the identity, as in PerFit."""

    name = "lora-reft"
    first_round = 1
    personal_keys = (
        *("sites", "private_sites", "positions", "rank.private"),
        *("settings.rate_R", "settings.rate_b"),
    )

    def __init__(
        self,
        rank: int,
        alpha: int,
        dropout: float,
        targets: list[str],
        blocks: list[int] | str,
        sites: list[int],
        positions: str,
        rank_private: int | list[int],
        seed: int,
        private_sites: list[int] | None = None,
        rate_R: float = 1.0,
        rate_b: float = 1.0,
    ) -> None:
        """Take the settings; see `LoraSettings` and `PerFit`."""
        self.collective = LoraSettings(rank, alpha, dropout, tuple(targets), blocks)
        self.ranks, self._sites_key = shifts.personal_ranks(sites, private_sites, rank_private)
        self.positions = Positions.parse(positions)
        self.rates = shifts.checked_rates(rate_R, rate_b)
        self.seed = seed

    def check(self, backbone: BackboneShape) -> None:
        """Refuse modules that the backbone does not have, a site beyond the last block and a rank above d."""
        self.collective.on(backbone)
        shifts.check_fit("rank.private", self.ranks, backbone, self._sites_key)

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return A from the seed and B = 0."""
        return lora.start(self.collective.on(backbone), backbone, SHARED, self.seed, COLLECTIVE)

    def server_aggregator(self, state: Tensors, _round_number: int) -> TensorMean:
        """Return the mean of A and the mean of B."""
        return TensorMean(state)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAndShifts:
        """Attach the LoRA and φ⁽²⁾."""
        adapters = lora.attach(model, {COLLECTIVE: self.collective.on(backbone)})
        return LoraAndShifts(adapters, SiteShifts(model, self.positions, backbone.hidden, {_STAGE: self.ranks}))

    def client_train(self, adapter: LoraAndShifts, request: TrainRequest) -> TrainResult:
        """Train A and B; φ⁽²⁾ is the identity."""
        self.client_load(adapter, request.shared, None)
        return lora.train_shared(adapter.lora, request)

    def client_personalize(self, adapter: LoraAndShifts, shared: Tensors, fit: Fit) -> tuple[Tensors, FitResult]:
        """Train φ⁽²⁾ on top of the fixed A and B."""
        self.client_load(adapter, shared, None)
        result = shifts.train(adapter.shifts, [_STAGE], fit, self.rates)
        return shifts.state(adapter.shifts, _STAGE, _PRIVATE), result

    def client_load(self, adapter: LoraAndShifts, shared: Tensors, private: Tensors | None) -> None:
        """Set A and B, and φ⁽²⁾ or the identity."""
        adapter.lora.load(COLLECTIVE, shared, SHARED)
        adapter.lora.use(COLLECTIVE)
        begin = private or shifts.start(self.ranks, adapter.shifts.hidden, self.seed, _STAGE, _PRIVATE)
        shifts.load(adapter.shifts, _STAGE, begin, _PRIVATE)

    def private_parameters(self, backbone: BackboneShape) -> int:
        """Return L(2r⁽²⁾d + r⁽²⁾)."""
        return shifts.parameters(self.ranks, backbone.hidden)
