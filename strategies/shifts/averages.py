"""Federated averaging of R, W, b: three rules, all weighted by num_examples, all giving RRᵀ = I.

The mean of orthonormal matrices is not orthonormal, and (QR, QW, Qb) is the same function for every
orthogonal Q (r×r). The rules differ in what they average:

- `mean`        averages R, W, b as they are, then retracts;
- `procrustes`  first aligns each client to the global frame, then averages and retracts;
- `function`    averages the functions themselves and truncates the average to rank r.

All arithmetic is float64; the caller fixes the order of clients, so the same replies give the same bits.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from strategies.method import Tensors
from strategies.shifts.common import Triple, named, triple
from strategies.shifts.shift import retract


class TripleAverage(Protocol):
    """The weighted average of one shift over clients, built up one client at a time."""

    def add(self, R: torch.Tensor, W: torch.Tensor, b: torch.Tensor, weight: float) -> None:
        """Add one client's shift, in float64."""

    def result(self) -> tuple[Triple, dict[str, float]]:
        """Return the average with RRᵀ = I, and figures about it."""


class MeanAverage:
    """R, W, b ← retract(Σp_k R_k, Σp_k W_k, Σp_k b_k).

    The averaged parameters R̄, W̄, b̄ are a function x + R̄ᵀ((W̄ − R̄)x + b̄) although R̄ is not orthonormal.
    `retract` replaces R̄ by the nearest orthonormal R = UVᵀ (SVD R̄ = UΣVᵀ) and W by R + S(W̄ − R̄), S = UΣUᵀ,
    which leaves that function unchanged (derivation in `retract`).
    """

    def __init__(self, R: torch.Tensor) -> None:
        """Start empty; `R` is the global R that was sent out, in float64."""
        self._sums: Triple = (torch.zeros_like(R), torch.zeros_like(R), torch.zeros_like(R[:, 0]))
        self._weight = 0.0

    def add(self, R: torch.Tensor, W: torch.Tensor, b: torch.Tensor, weight: float) -> None:
        """Add one client's R, W, b."""
        for total, value in zip(self._sums, (R, W, b), strict=True):
            total.add_(value, alpha=weight)
        self._weight += weight

    def result(self) -> tuple[Triple, dict[str, float]]:
        """Return the retracted mean; `consensus` is the smallest singular value of R̄ (1: all clients agree)."""
        R, W, b = (total / self._weight for total in self._sums)
        return retract(R, W, b), {"consensus": float(torch.linalg.svdvals(R).min())}


def align(R: torch.Tensor, W: torch.Tensor, b: torch.Tensor, frame: torch.Tensor) -> Triple:
    """Return (QR, QW, Qb), the same function, with Q = argmin ‖QR − R_g‖_F over orthogonal Q; R_g is `frame`.

    ‖QR − R_g‖² = 2r − 2 tr(Q R R_gᵀ) is least where the trace is greatest: with the SVD R_gRᵀ = UΣVᵀ that is Q = UVᵀ.
    """
    U, _, Vt = torch.linalg.svd(frame @ R.T)
    Q = U @ Vt
    return Q @ R, Q @ W, Q @ b


class ProcrustesAverage:
    """R, W, b ← the mean over k of the clients' (Q_kR_k, Q_kW_k, Q_kb_k), each aligned to the global frame by `align`.

    Alignment changes only the frame, not the client's function. The rest is as in `MeanAverage`.
    """

    def __init__(self, R: torch.Tensor) -> None:
        """Start empty; `R` is the global frame R_g, in float64."""
        self._frame = R
        self._mean = MeanAverage(R)

    def add(self, R: torch.Tensor, W: torch.Tensor, b: torch.Tensor, weight: float) -> None:
        """Align one client to the global frame and add it."""
        self._mean.add(*align(R, W, b, self._frame), weight)

    def result(self) -> tuple[Triple, dict[str, float]]:
        """Return the retracted mean."""
        return self._mean.result()


class FunctionAverage:
    """The rank-r function nearest to the mean of the clients' functions.

    Client k adds A_kx + c_k to x, with A_k = R_kᵀ(W_k − R_k) and c_k = R_kᵀb_k. Let M = Σp_k[A_k | c_k],
    d×(d+1). Among all [A | c] of rank r the truncated SVD of M is nearest (Eckart-Young), and it is reached by

        R ← the top r left singular vectors of M as rows,  W ← R + RĀ,  b ← Rc̄,

    since then Rᵀ[W − R | b] = RᵀR M. If the rank of M is below r, the remaining rows of R are free: they come
    from the global R, projected off the other rows, so that a round without change keeps R.

    M = C D with C = [R_1ᵀ … R_Kᵀ] (d×Kr) and D the stacked p_k[W_k − R_k | b_k]; while Kr < d its SVD is that of
    the Kr×Kr product of the triangular factors of C and Dᵀ, and no d×d matrix is needed. From Kr = d on, M itself
    is smaller than the factors.
    """

    def __init__(self, R: torch.Tensor) -> None:
        """Start empty; `R` is the global R, in float64."""
        self._global = R
        self._left: list[torch.Tensor] = []
        self._right: list[torch.Tensor] = []
        self._dense: torch.Tensor | None = None
        self._weight = 0.0

    def add(self, R: torch.Tensor, W: torch.Tensor, b: torch.Tensor, weight: float) -> None:
        """Add one client's function."""
        right = weight * torch.cat([W - R, b[:, None]], dim=1)
        self._weight += weight
        if self._dense is not None:
            self._dense.addmm_(R.T, right)
            return
        self._left.append(R)
        self._right.append(right)
        rank, hidden = R.shape
        if len(self._left) * rank >= hidden:
            self._dense = torch.cat(self._left).T @ torch.cat(self._right)
            self._left, self._right = [], []

    def result(self) -> tuple[Triple, dict[str, float]]:
        """Truncate to rank r; `lost` is the share of ‖M‖_F² lost by that (0 if M = 0)."""
        rank, hidden = self._global.shape
        U, sigma = self._left_singular()
        energy = sigma.square()
        total = float(energy.sum())
        lost = float(energy[rank:].sum()) / total if total else 0.0
        # Directions below rounding error are noise of the SVD and do not come from the clients.
        kept = int((sigma[:rank] > sigma.max().clamp(min=1e-300) * hidden * torch.finfo(sigma.dtype).eps).sum())
        R = _complete(U[:, :kept].T, self._global)
        projected = self._project(R)
        return (R, R + projected[:, :-1], projected[:, -1].clone()), {"lost": lost}

    def _left_singular(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._dense is not None:
            U, sigma, _ = torch.linalg.svd(self._dense / self._weight, full_matrices=False)
            return U, sigma
        Q_left, T_left = torch.linalg.qr(torch.cat(self._left).T)
        _, T_right = torch.linalg.qr(torch.cat(self._right).T / self._weight)
        U, sigma, _ = torch.linalg.svd(T_left @ T_right.T)
        return Q_left @ U, sigma

    def _project(self, R: torch.Tensor) -> torch.Tensor:
        if self._dense is not None:
            return R @ self._dense / self._weight
        return (R @ torch.cat(self._left).T) @ torch.cat(self._right) / self._weight


def _complete(rows: torch.Tensor, fallback: torch.Tensor) -> torch.Tensor:
    """Fill orthonormal `rows` [k, d] up to the r rows of `fallback` [r, d] from the span of `fallback`."""
    missing = len(fallback) - len(rows)
    if not missing:
        return rows
    if not len(rows):
        return fallback.clone()
    rest = fallback - (fallback @ rows.T) @ rows
    # The leading right singular vectors are the directions of `fallback` least covered by `rows`.
    _, _, Vt = torch.linalg.svd(rest, full_matrices=False)
    filled: torch.Tensor = torch.linalg.qr(torch.cat([rows, Vt[:missing]]).T)[0].T
    return torch.cat([rows, filled[len(rows) :]])


AGGREGATORS: dict[str, Callable[[torch.Tensor], TripleAverage]] = {
    "mean": MeanAverage,
    "procrustes": ProcrustesAverage,
    "function": FunctionAverage,
}


def find_average(name: str) -> Callable[[torch.Tensor], TripleAverage]:
    """Return one of `AGGREGATORS`.

    Raises:
        ValueError: Unknown aggregation.
    """
    if name not in AGGREGATORS:
        raise ValueError(f"aggregation='{name}': expected one of {', '.join(AGGREGATORS)}")
    return AGGREGATORS[name]


class ShiftAggregator:
    """Combines the replies of one round, shift by shift."""

    per_user = False

    def __init__(self, shared: Tensors, average: Callable[[torch.Tensor], TripleAverage]) -> None:
        """Start a round.

        Args:
            shared: The tensors sent out; the names `*.R` identify the shifts.
            average: One of `AGGREGATORS`.
        """
        self.expected = shared
        self._averages = {
            name.removesuffix(".R"): average(value.double()) for name, value in shared.items() if name.endswith(".R")
        }
        self._clients = 0

    def add(self, _user: int, shared: Tensors, num_examples: int) -> None:
        """Add one client's reply, weighted by its examples."""
        for prefix, average in self._averages.items():
            R, W, b = triple(shared, prefix)
            average.add(R.double(), W.double(), b.double(), float(num_examples))
        self._clients += 1

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Return the next shared tensors in fp32, and the mean of every figure over the shifts.

        Raises:
            ValueError: No client replied.
        """
        if not self._clients:
            raise ValueError("a round without a single reply cannot be aggregated")
        tensors: Tensors = {}
        figures: dict[str, float] = {}
        for prefix, average in self._averages.items():
            averaged, shift_figures = average.result()
            tensors |= named(prefix, [value.float().contiguous() for value in averaged])
            for key, value in shift_figures.items():
                figures[key] = figures.get(key, 0.0) + value / len(self._averages)
        return tensors, figures
