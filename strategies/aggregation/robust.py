"""Rules against bad updates: they take the updates that clients sent and return the updates to average.

An update is the tensors θ_k that client k sent, u_k = θ_k − θ its step from where it began. Rules treat all tensors of
an update as one vector and all clients equally, because an attacker could claim any number of examples.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from strategies.method import Tensors

RULES = ("none", "clip", "median", "trimmed_mean", "krum")
POOLING = ("median", "trimmed_mean")
"""Rules whose result combines all clients and belongs to none of them."""
_ORTHONORMAL = 1e-3
"""Clients retract in fp32, which leaves an error of 1e-6; an R that is this far off was not retracted."""


@dataclass(frozen=True)
class Update:
    """What one client sent, or the result of a pooling rule."""

    user: int
    """Partition id; −1 for the result of a pooling rule."""
    shared: Tensors
    examples: int


def find_fault(shared: Tensors, expected: Tensors, examples: int) -> str | None:
    """Return what is wrong with a single update, or None.

    Args:
        shared: The received tensors.
        expected: Tensors of the expected names, shapes and dtypes.
        examples: The weight the client claims.
    """
    if shared.keys() != expected.keys():
        different = sorted(shared.keys() ^ expected.keys())[0]
        return f"tensor '{different}' is {'missing' if different in expected else 'not expected'}"
    for name, value in shared.items():
        like = expected[name]
        if value.shape != like.shape or value.dtype != like.dtype:
            have, want = ((tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in (value, like))
            return f"tensor '{name}' is {have[0]} {have[1]}, expected {want[0]} {want[1]}"
        if not bool(torch.isfinite(value).all()):
            return f"tensor '{name}' is not finite"
    for name, R in shared.items():
        prefix = name.removesuffix(".R")
        if name.endswith(".R") and f"{prefix}.W" in shared and f"{prefix}.b" in shared:
            off = float((R.double() @ R.double().T - torch.eye(len(R), dtype=torch.float64)).abs().max())
            if off > _ORTHONORMAL:
                return f"tensor '{name}' is not row-orthonormal: RRᵀ − I has an entry of {off:.2g}"
    if examples <= 0:
        return f"{examples} examples"
    return None


def step_norm(shared: Tensors, start: Tensors) -> float:
    """Return ‖u‖₂ over all tensors."""
    return math.sqrt(
        sum(float((value.double() - start[name].double()).square().sum()) for name, value in shared.items())
    )


def apply_rule(
    rule: str, share: float, updates: Iterable[Update], norms: Sequence[float], start: Tensors
) -> Iterable[Update]:
    """Return the updates to average.

    - `none`: the updates.
    - `clip`: steps longer than the median length are shortened to it (Sun et al., arXiv 1911.07963, with τ the median).
    - `median`: one update, the median of every coordinate (Yin et al., ICML 2018).
    - `trimmed_mean`: one update, every coordinate's mean without its ⌊share·K⌋ lowest and highest (Yin et al.).
    - `krum`: the update with the least sum of squared distances to its K − f − 2 nearest, f = ⌊share·K⌋ (Blanchard et
      al., NeurIPS 2017).

    Args:
        rule: One of `RULES`.
        share: Share of clients to guard against.
        updates: One per client; read one at a time if the rule allows.
        norms: `step_norm` of every update.
        start: The tensors that clients started from.
    """
    if rule == "none":
        return updates
    if rule == "clip":
        limit = float(torch.tensor(norms, dtype=torch.float64).quantile(0.5))
        return (_clip(update, norm, limit, start) for update, norm in zip(updates, norms, strict=True))
    listed = list(updates)
    points = torch.stack([torch.cat([update.shared[name].double().flatten() for name in start]) for update in listed])
    dropped = int(share * len(points))
    if rule == "median":
        return [Update(-1, _shaped(points.quantile(0.5, dim=0), start), 1)]
    if rule == "trimmed_mean":
        kept = points.sort(dim=0).values[dropped : len(points) - dropped]
        return [Update(-1, _shaped(kept.mean(dim=0), start), 1)]
    return [listed[_krum(points, dropped)]]


def _clip(update: Update, norm: float, limit: float, start: Tensors) -> Update:
    if norm <= limit:
        return update
    shared = {name: start[name] + (value - start[name]) * (limit / norm) for name, value in update.shared.items()}
    return Update(update.user, shared, update.examples)


def _krum(points: torch.Tensor, byzantine: int) -> int:
    squared = torch.cdist(points, points).square()
    nearest = max(1, len(points) - byzantine - 2)
    # A point's distance to itself, 0, comes first.
    scores = squared.sort(dim=1).values[:, 1 : nearest + 1].sum(dim=1)
    return int(scores.argmin())


def _shaped(vector: torch.Tensor, start: Tensors) -> Tensors:
    parts = vector.float().split([value.numel() for value in start.values()])
    return {name: part.reshape(value.shape) for (name, value), part in zip(start.items(), parts, strict=True)}
