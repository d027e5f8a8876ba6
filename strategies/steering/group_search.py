"""A group's directions from its clients' sketches and probes, without any client's states (Chameleon, federated).

The opening stacks sketches, from which θᴾ follows as from all states together, and adds up each kind's states. Rounds
then average probes, as federated averaging does. The layers with the best probes give two directions each.
"""

from collections.abc import Mapping

import torch

from strategies.method import Tensors
from strategies.spacing import read_sites
from strategies.steering.directions import begin_probes, best_probes, sketch, top_directions

SHARED_EDIT = "shared_edit"
"""Prefix of what newcomers get: `layer` [n], `P` and `N` [n, d]."""
FEWEST_PAIRS = 5
"""Pairs below which a probe fits anything, so that its loss says nothing about a layer."""
FEWEST_SENT = 3
"""Pairs below which a client's states would follow from what it sends, so that it sends zeros."""
_OPENING = ("shared_sketch.rows", "shared_sums.P", "shared_sums.N", "shared_sums.pairs")
_PROBES = ("shared_probes.theta", "shared_probes.b", "shared_probes.loss", "shared_probes.pairs")


class GroupSearch:
    """One round's aggregator; which phase it is in follows from the state."""

    per_user = True

    def __init__(self, state: Tensors, rows: int, restarts: int, generator: torch.Generator, layers: int) -> None:
        """Start a round.

        Args:
            state: The server's state.
            rows: m, of a sketch.
            restarts: Probes per layer.
            generator: Draws the probes' start.
            layers: Layers that are edited.
        """
        self._state, self._rows, self._restarts, self._generator = state, rows, restarts, generator
        self._layers = layers
        names = _OPENING if _OPENING[0] in state else _PROBES
        self.expected = {name: state[name] for name in names}
        self._stacked: list[torch.Tensor] = []
        self._sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in self.expected.items()}

    @staticmethod
    def begin(rows: int, layers: int, d: int) -> Tensors:
        """Return the state before the opening: what it adds up is 0."""
        sums = torch.zeros(layers, d)
        return dict(zip(_OPENING, (torch.zeros(rows, layers, d), sums, sums.clone(), torch.zeros(2)), strict=True))

    @staticmethod
    def opening(personal: torch.Tensor, neutral: torch.Tensor, made: torch.Tensor, rows: int) -> Tensors:
        """Return a client's message: the sketch of its Hᴾ, the sums of Hᴾ and Hᴺ, pairs kept and made."""
        counts = torch.tensor([float(len(personal)), float(made)])
        values = (sketch(personal, rows), personal.sum(dim=0), neutral.sum(dim=0), counts)
        return dict(zip(_OPENING, values, strict=True))

    @staticmethod
    def probes(theta: torch.Tensor, b: torch.Tensor, losses: torch.Tensor, pairs: int) -> Tensors:
        """Return a client's message: its probes, the losses of those that it received, and its number of pairs."""
        return dict(zip(_PROBES, (theta, b, losses, torch.tensor([float(pairs)])), strict=True))

    def add(self, _user: int, shared: Tensors, _num_examples: int) -> None:
        """Add a client's sketch and sums, or its probes weighted by its pairs."""
        if _OPENING[0] in shared:
            self._stacked.append(shared[_OPENING[0]])
            weight = 1.0
        else:
            weight = float(shared["shared_probes.pairs"])
        for name, total in self._sums.items():
            share = 1.0 if name.endswith(".pairs") else weight
            if name != _OPENING[0]:
                total.add_(shared[name].double(), alpha=share)

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Return the next phase's state."""
        if self._stacked:
            return self._end_opening()
        state = dict(self._state)
        # Without any pairs in this round, the probes stay unchanged.
        if pairs := float(self._sums["shared_probes.pairs"]):
            names = [name for name in _PROBES if name != "shared_probes.pairs"]
            state |= {name: (self._sums[name] / pairs).float() for name in names}
        figures = {"ccs_loss": float(state["shared_probes.loss"].min(dim=0).values.mean())}
        chosen = group_edit(state, self._layers).get(f"{SHARED_EDIT}.layer", ())
        return state, figures | {f"layer.{place}": float(layer) for place, layer in enumerate(chosen)}

    def _end_opening(self) -> tuple[Tensors, Mapping[str, float]]:
        kept, made = self._sums["shared_sums.pairs"].tolist()
        direction = top_directions(torch.cat(self._stacked))
        layers, d = direction.shape
        theta, b = begin_probes(self._restarts, layers, d, self._generator)
        state = dict(zip(_PROBES, (theta, b, torch.zeros_like(b), torch.zeros(1)), strict=True))
        means = {f"shared_means.{kind}": (self._sums[f"shared_sums.{kind}"] / max(kept, 1)).float() for kind in "PN"}
        figures = {"pairs": kept, "discarded": made - kept}
        opened = {"server_direction.P": direction, "server_pairs": torch.tensor(kept)}
        return state | means | opened, figures


def group_edit(state: Tensors, count: int) -> Tensors:
    """Return the edit that newcomers get: θᴾ and θᴺ of the layers whose probes have the lowest losses.

    Args:
        state: The server's state, after any round. One of an earlier version ends stage 1 as the edit itself.
        count: Layers to edit; with fewer, all are.

    Returns:
        `shared_edit.layer`, `.P` and `.N`; nothing if no probe was trained. A group with too few pairs for a probe has
        no θᴺ.
    """
    if written := {name: value for name, value in state.items() if name.startswith(SHARED_EDIT)}:
        return written
    losses = state.get("shared_probes.loss")
    if losses is None or not losses.any():
        return {}
    probes, lowest = best_probes(state["shared_probes.theta"], losses)
    layers = lowest.argsort(stable=True)[:count].sort().values
    if float(state["server_pairs"]) < FEWEST_PAIRS:
        layers, probes = torch.tensor(read_sites(f"{count} spread", len(lowest))), torch.zeros_like(probes)
    edit = {"layer": layers.to(torch.int16), "P": state["server_direction.P"][layers], "N": probes[layers]}
    return {f"{SHARED_EDIT}.{part}": value for part, value in edit.items()}
