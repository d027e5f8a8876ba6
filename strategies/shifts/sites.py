"""Shifts on the residual stream, by forward hooks; for every decoder whose blocks return the stream."""

from collections.abc import Iterator, Mapping
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

    def __init__(
        self, model: nn.Module, positions: Positions, hidden: int, shifts: Mapping[str, Mapping[int, int]]
    ) -> None:
        """Attach to `model`.

        Args:
            model: A frozen causal language model.
            positions: Prompt tokens to act on.
            hidden: d, the width of the residual stream.
            shifts: Rank by site (decoder block, counted from 0) by shift name, in the order of composition (innermost
                first).
        """
        super().__init__()
        self.shifts = nn.ModuleDict(
            {
                name: nn.ModuleDict({str(site): Shift(hidden, rank) for site, rank in ranks.items()})
                for name, ranks in shifts.items()
            }
        )
        self.hidden = hidden
        self.positions = positions
        self.frozen_blocks = int(self.every_site()[0]) + 1
        self.suffix = positions.last if positions.first == 0 else None
        self.row_modules = [shift for site in self.every_site() for shift in self.chain(site)]
        self._selected: torch.Tensor | None = None
        device = next(model.parameters()).device
        self.to(device)
        blocks = find_blocks(model)
        for site in self.every_site():
            blocks[int(site)].register_forward_hook(self._hook(site))

    def shift(self, shift_name: str, site: str) -> Shift:
        """Return one shift."""
        chain = self.shifts[shift_name]
        assert isinstance(chain, nn.ModuleDict)
        shift = chain[site]
        assert isinstance(shift, Shift)
        return shift

    def sites(self, shift_name: str) -> list[str]:
        """Return the names of one shift's sites, in order."""
        chain = self.shifts[shift_name]
        assert isinstance(chain, nn.ModuleDict)
        return list(chain.keys())

    def every_site(self) -> list[str]:
        """Return the names of all sites, in order."""
        return sorted({site for name in self.shifts for site in self.sites(name)}, key=int)

    def chain(self, site: str) -> list[Shift]:
        """Return the shifts at a site, in the order of composition."""
        return [self.shift(name, site) for name in self.shifts if site in self.sites(name)]

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
        chain = self.chain(site)

        def intervene(_block: nn.Module, _args: Any, output: Any) -> Any:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            if self._selected is None:
                return output
            shifted = hidden
            for shift in chain:
                shifted = shift(shifted)
            shifted = torch.where(self._selected, shifted, hidden)
            return shifted if isinstance(output, torch.Tensor) else (shifted, *output[1:])

        return intervene
