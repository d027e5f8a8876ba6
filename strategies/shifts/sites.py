"""Shifts on the residual stream, by forward hooks; for every decoder whose blocks return the stream."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from strategies.blocks import find_blocks
from strategies.shifts.positions import Positions
from strategies.shifts.shift import Shift


class SiteShifts(nn.Module):
    """A chain of shifts at every site, h ↦ φ⁽ˢ⁾ ∘ … ∘ φ⁽¹⁾ (h), on the selected prompt positions (PerFit, eq. 1).

    Sites are independent; all positions of a site share one set of weights. Outside `active` the backbone
    runs unchanged. Attaching registers one hook per site and does not touch the backbone's weights.
    """

    def __init__(self, model: nn.Module, sites: list[int], positions: Positions, hidden: int, ranks: dict[str, int]):
        """Attach to `model`.

        Args:
            model: A frozen causal language model.
            sites: Decoder blocks, counted from 0.
            positions: Prompt tokens to act on.
            hidden: d, the width of the residual stream.
            ranks: Rank by shift name, in the order of composition (innermost first).
        """
        super().__init__()
        self.shifts = nn.ModuleDict(
            {name: nn.ModuleDict({str(site): Shift(hidden, rank) for site in sites}) for name, rank in ranks.items()}
        )
        self.hidden = hidden
        self.positions = positions
        self.frozen_blocks = min(sites) + 1
        self.suffix = positions.last if positions.first == 0 else None
        self._selected: torch.Tensor | None = None
        device = next(model.parameters()).device
        self.to(device)
        blocks = find_blocks(model)
        for site in sites:
            blocks[site].register_forward_hook(self._hook(str(site)))

    def shift(self, shift_name: str, site: str) -> Shift:
        """Return one shift."""
        chain = self.shifts[shift_name]
        assert isinstance(chain, nn.ModuleDict)
        shift = chain[site]
        assert isinstance(shift, Shift)
        return shift

    def sites(self) -> list[str]:
        """Return the names of the sites, in order."""
        first = next(iter(self.shifts.values()))
        assert isinstance(first, nn.ModuleDict)
        return list(first.keys())

    @contextmanager
    def active(self, prompt: torch.Tensor) -> Iterator[None]:
        """Make the shifts act, inside the context, on the prompts of the mask [batch, length]."""
        if not prompt.any():
            yield
            return
        self._selected = self.positions.select(prompt).unsqueeze(-1)
        try:
            yield
        finally:
            self._selected = None

    def _hook(self, site: str) -> Any:
        def intervene(_block: nn.Module, _args: Any, output: Any) -> Any:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            if self._selected is None:
                return output
            shifted = hidden
            for shift_name in self.shifts:
                shifted = self.shift(shift_name, site)(shifted)
            shifted = torch.where(self._selected, shifted, hidden)
            return shifted if isinstance(output, torch.Tensor) else (shifted, *output[1:])

        return intervene
