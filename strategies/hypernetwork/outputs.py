"""What the network writes: LoRA's factors on linear modules, or PerFit's shifts at sites.

Both give the network its kinds of module and initial adapters, turn its rows into named tensors and back into the
coordinates in which clients' changes are taken, and know their adapter.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import nn

from configs.errors import RunFailed
from strategies import lora, shifts
from strategies.lora.adapters import LoraAdapters
from strategies.lora.common import COLLECTIVE, LoraSettings, attach, block_of, first_a
from strategies.method import BackboneShape, Fit, FitResult, Tensors
from strategies.shifts.positions import Positions
from strategies.shifts.sites import SiteShifts

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of an adapter's trained tensors, by name without prefix."""
Places = dict[str, tuple[nn.Module, str]]
"""A module and the name of its parameter, likewise."""


class Output(Protocol):
    """A kind of adapter that a network writes."""

    def kinds(self) -> list[str]:
        """Return the kinds of module, each with a head of its own."""

    def starts(self, backbone: BackboneShape, seed: int) -> dict[str, torch.Tensor]:
        """Return the initial adapter of each kind of module, flat."""

    def shapes(self, backbone: BackboneShape) -> Shapes:
        """Return the names and shapes of the adapter as trained."""

    def depths(self, shapes: Shapes) -> list[int]:
        """Return the blocks that get an adapter, in order."""

    def tensors(self, rows: Mapping[str, torch.Tensor], shapes: Shapes) -> Tensors:
        """Return the adapter that the network's rows describe, as trained."""

    def trained(self, tensors: Tensors) -> Tensors:
        """Return a sent or loaded adapter as trained: R, D, b for R, W, b."""

    def sent(self, tensors: Tensors) -> Tensors:
        """Undo `trained`."""

    def attach(self, model: nn.Module, backbone: BackboneShape) -> "LoraAdapters | SiteShifts":
        """Attach the adapter, inactive."""

    def places(self, adapter: "LoraAdapters | SiteShifts") -> Places:
        """Return where an adapter's trained tensors are."""

    def load(self, adapter: "LoraAdapters | SiteShifts", tensors: Tensors, prefix: str) -> None:
        """Set the adapter from sent tensors `<prefix>.…`."""

    def state(self, adapter: "LoraAdapters | SiteShifts", prefix: str) -> Tensors:
        """Return the adapter's tensors as sent."""

    def train(self, adapter: "LoraAdapters | SiteShifts", fit: Fit) -> FitResult:
        """Train the adapter."""

    def parameters(self, backbone: BackboneShape) -> int:
        """Return the adapter's number of parameters."""


class LoraOutput:
    """A of [r, n] and B of [m, r] for every target module of every block; a kind of module is a target."""

    def __init__(self, settings: LoraSettings) -> None:
        """Take LoRA's settings."""
        self._settings = settings

    def kinds(self) -> list[str]:
        """Return the targets."""
        return list(self._settings.targets)

    def starts(self, backbone: BackboneShape, seed: int) -> dict[str, torch.Tensor]:
        """Return A as LoRA draws it and B = 0 for each target, [r(n + m)].

        Raises:
            ValueError: A target's modules differ in size from block to block.
        """
        settings, flat = self._settings, {}
        for target in settings.targets:
            inputs, outputs = self._size(target, backbone)
            A = first_a(settings.rank, inputs, seed, "hypernetwork", target)
            flat[target] = torch.cat([A.flatten(), torch.zeros(outputs * settings.rank)])
        return flat

    def shapes(self, backbone: BackboneShape) -> Shapes:
        """Return A's and B's."""
        rank, shapes = self._settings.rank, {}
        for module in self._settings.on(backbone).modules:
            inputs, outputs = backbone.linears[module]
            shapes[f"{module}.A"], shapes[f"{module}.B"] = (rank, inputs), (outputs, rank)
        return shapes

    def depths(self, shapes: Shapes) -> list[int]:
        """Return the adapted blocks."""
        return sorted({block_of(name) for name in shapes})

    def tensors(self, rows: Mapping[str, torch.Tensor], shapes: Shapes) -> Tensors:
        """Cut every row into A and B."""
        written, depths = {}, self.depths(shapes)
        for module in (name.removesuffix(".A") for name in shapes if name.endswith(".A")):
            of_A, of_B = shapes[f"{module}.A"], shapes[f"{module}.B"]
            target = next(target for target in self._settings.targets if module.endswith(f".{target}"))
            row = rows[target][depths.index(block_of(module))]
            A, B = row.split([math.prod(of_A), math.prod(of_B)])
            written[f"{module}.A"], written[f"{module}.B"] = A.view(of_A), B.view(of_B)
        return written

    def trained(self, tensors: Tensors) -> Tensors:
        """Return A and B: they are sent as they are trained."""
        return tensors

    def sent(self, tensors: Tensors) -> Tensors:
        """Return A and B."""
        return tensors

    def attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach the adapter."""
        return attach(model, {COLLECTIVE: self._settings.on(backbone)})

    def places(self, adapter: "LoraAdapters | SiteShifts") -> Places:
        """Return the modules that hold A and B."""
        assert isinstance(adapter, LoraAdapters)
        names = adapter.state(COLLECTIVE, "")
        places = [(name.removeprefix("."), *name.removeprefix(".").rsplit(".", 1)) for name in names]
        return {name: (adapter.factor(COLLECTIVE, module, letter), "weight") for name, module, letter in places}

    def load(self, adapter: "LoraAdapters | SiteShifts", tensors: Tensors, prefix: str) -> None:
        """Set A and B, and let them act."""
        assert isinstance(adapter, LoraAdapters)
        adapter.load(COLLECTIVE, tensors, prefix)
        adapter.use(COLLECTIVE)

    def state(self, adapter: "LoraAdapters | SiteShifts", prefix: str) -> Tensors:
        """Return A and B."""
        assert isinstance(adapter, LoraAdapters)
        return adapter.state(COLLECTIVE, prefix)

    def train(self, adapter: "LoraAdapters | SiteShifts", fit: Fit) -> FitResult:
        """Train A and B."""
        assert isinstance(adapter, LoraAdapters)
        return fit(adapter.trainable(COLLECTIVE))

    def parameters(self, backbone: BackboneShape) -> int:
        """Return Σ r(m + n)."""
        return lora.parameters(self._settings.on(backbone), backbone)

    def _size(self, target: str, backbone: BackboneShape) -> tuple[int, int]:
        names = [name for name in self._settings.on(backbone).modules if name.endswith(f".{target}")]
        sizes = {backbone.linears[name] for name in names}
        if len(sizes) > 1:
            raise ValueError(
                f"settings.targets: {target} differs in size from block to block, which one head cannot write"
            )
        return sizes.pop()


class ShiftOutput:
    """φ(x) = x + Rᵀ(Dx + b) at every site: PerFit's shift, written by one head.

    The network writes P, D̃, b̃. With the Cholesky factor PPᵀ = LLᵀ, (R, D, b) = (L⁻¹P, LᵀD̃, Lᵀb̃) is the same function,
    RRᵀ = I, and has derivatives where a singular value decomposition has none (at P orthonormal, where it starts).
    """

    def __init__(self, sites: list[int], rank: int | Sequence[int], positions: str) -> None:
        """Take PerFit's settings.

        Raises:
            ValueError: The sites have different ranks, which one head cannot write.
        """
        self._sites = shifts.checked_sites(sites)
        self._ranks = shifts.ranks_at(self._sites, "rank.private", rank)
        if len(set(self._ranks.values())) > 1:
            raise ValueError(f"rank.private={rank}: one head writes every site, so expected one rank")
        self._positions = Positions.parse(positions)

    def kinds(self) -> list[str]:
        """Return the only one."""
        return ["shift"]

    def starts(self, backbone: BackboneShape, seed: int) -> dict[str, torch.Tensor]:
        """Return P = R from the seed, D̃ = 0 and b̃ = 0, [2rd + r]: the identity."""
        shifts.check_fit("rank.private", self._ranks, backbone)
        R, W, b = shifts.identity(self._rank, backbone.hidden, seed, "hypernetwork")
        return {"shift": torch.cat([R.flatten(), (W - R).flatten(), b])}

    def shapes(self, backbone: BackboneShape) -> Shapes:
        """Return R's, D's and b's."""
        wide = (self._rank, backbone.hidden)
        return {f"{site}.{letter}": wide if letter in "RD" else wide[:1] for site in self._sites for letter in "RDb"}

    def depths(self, _shapes: Shapes) -> list[int]:
        """Return the sites."""
        return self._sites

    def tensors(self, rows: Mapping[str, torch.Tensor], shapes: Shapes) -> Tensors:
        """Cut every row into P, D̃, b̃ and return R, D, b.

        Raises:
            RunFailed: Rows of P depend on each other, or are not finite.
        """
        written: Tensors = {}
        for site, row in zip(self._sites, rows["shift"], strict=True):
            wide = shapes[f"{site}.R"]
            P, D, b = row.split([math.prod(wide), math.prod(wide), wide[0]])
            P, D = P.view(wide), D.view(wide)
            L, failed = torch.linalg.cholesky_ex(P @ P.T)
            if int(failed) or not bool(torch.isfinite(L).all()):
                raise RunFailed("the network writes a shift that is degenerate; try lower rates of clients or server")
            R = torch.linalg.solve_triangular(L, P, upper=False)
            written |= {f"{site}.R": R, f"{site}.D": L.T @ D, f"{site}.b": L.T @ b}
        return written

    def trained(self, tensors: Tensors) -> Tensors:
        """Return R, D = W − R and b."""
        return shifts.to_wire(tensors)

    def sent(self, tensors: Tensors) -> Tensors:
        """Return R, W and b with RRᵀ = I."""
        return shifts.from_wire(tensors)

    def attach(self, model: nn.Module, backbone: BackboneShape) -> SiteShifts:
        """Attach φ to every site."""
        return SiteShifts(model, self._positions, backbone.hidden, {COLLECTIVE: self._ranks})

    def places(self, adapter: "LoraAdapters | SiteShifts") -> Places:
        """Return the shifts that hold R, D and b."""
        assert isinstance(adapter, SiteShifts)
        sites = adapter.sites(COLLECTIVE)
        return {f"{site}.{letter}": (adapter.shift(COLLECTIVE, site), letter) for site in sites for letter in "RDb"}

    def load(self, adapter: "LoraAdapters | SiteShifts", tensors: Tensors, prefix: str) -> None:
        """Set R, W and b."""
        assert isinstance(adapter, SiteShifts)
        shifts.load(adapter, COLLECTIVE, tensors, prefix)

    def state(self, adapter: "LoraAdapters | SiteShifts", prefix: str) -> Tensors:
        """Return R, W and b."""
        assert isinstance(adapter, SiteShifts)
        return shifts.state(adapter, COLLECTIVE, prefix)

    def train(self, adapter: "LoraAdapters | SiteShifts", fit: Fit) -> FitResult:
        """Train φ."""
        assert isinstance(adapter, SiteShifts)
        return shifts.train(adapter, [COLLECTIVE], fit)

    def parameters(self, backbone: BackboneShape) -> int:
        """Return L(2rd + r)."""
        return shifts.parameters(self._ranks, backbone.hidden)

    @property
    def _rank(self) -> int:
        return next(iter(self._ranks.values()))
