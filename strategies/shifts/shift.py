"""The low-rank shift φ, PerFit's function on the residual stream."""

import torch
from torch import nn


class Shift(nn.Module):
    """φ(x) = x + Rᵀ(Wx + b − Rx), with R, W ∈ ℝ^{r×d}, b ∈ ℝ^r and RRᵀ = I_r (PerFit, eq. 2).

    φ starts as the identity: W = R, b = 0. Parameters are fp32 for every number format of the backbone;
    the shift is computed in fp32 and added in the format of x.

    Trained are R, D = W − R and b: the same function, x + Rᵀ(Dx + b). With G = ∂L/∂φ(x), the gradients are
    ∂R = (Dx + b)Gᵀ and ∂D = (RG)xᵀ. In terms of R and W they would be ∂W = (RG)xᵀ and ∂R = (Wx − Rx + b)Gᵀ − (RG)xᵀ: R
    would get −∂W too. On the residual stream |x| is large while Wx − Rx + b
    starts at 0, so −∂W would be nearly all of it, and an optimiser that forgets the size of gradients, as AdamW does,
    would turn R by W's gradient instead of its own.
    """

    def __init__(self, hidden: int, rank: int) -> None:
        """Create φ with R = W = the first `rank` unit vectors; `load` sets the actual start.

        Args:
            hidden: d, the width of the residual stream.
            rank: r, at most d.
        """
        super().__init__()
        self.R = nn.Parameter(torch.eye(rank, hidden))
        self.D = nn.Parameter(torch.zeros(rank, hidden))
        self.b = nn.Parameter(torch.zeros(rank))

    @property
    def W(self) -> torch.Tensor:  # noqa: N802
        """W = R + D, [r, d]: as in messages and exports."""
        return self.R + self.D

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return φ(x) for x of shape [..., d]."""
        inside = x.float()
        # In `strategies.by_row.each_row` every row of the batch has an R, D and b of its own.
        shift: torch.Tensor = (inside @ self.D.mT + self.b.unsqueeze(-2)) @ self.R
        return x + shift.to(x.dtype)

    @torch.no_grad()
    def load(self, R: torch.Tensor, W: torch.Tensor, b: torch.Tensor) -> None:
        """Copy values in; shapes [r, d], [r, d], [r]."""
        self.R.copy_(R)
        self.D.copy_(W - R)
        self.b.copy_(b)

    @torch.no_grad()
    def retract(self) -> None:
        """Retract R to orthonormal rows after an optimiser step, without changing φ (see `retract`)."""
        R, W, b = retract(self.R, self.R.double() + self.D.double(), self.b)
        self.D.copy_(W - R.double())
        self.R.copy_(R)
        self.b.copy_(b)


def random_orthonormal(rank: int, hidden: int, generator: torch.Generator) -> torch.Tensor:
    """Return r orthonormal rows of length d, uniform over all such bases; shape [r, d], fp32."""
    gaussian = torch.randn(hidden, rank, generator=generator, dtype=torch.float64)
    q, upper = torch.linalg.qr(gaussian)
    # Without this correction, QR's choice of signs would make the distribution non-uniform.
    rows: torch.Tensor = (q * torch.sign(torch.diagonal(upper))).T
    return rows.float().contiguous()


def compose(
    inner: tuple[torch.Tensor, torch.Tensor, torch.Tensor], outer: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return one (R, W, b) that computes φ_outer ∘ φ_inner, of rank r₁ + r₂ (at most d).

    With D = W − R, φ₁(x) = x + R₁ᵀ(D₁x + b₁), and

        φ₂(φ₁(x)) = x + R₁ᵀ(D₁x + b₁) + R₂ᵀ(D₂x + D₂R₁ᵀ(D₁x + b₁) + b₂) = x + Sᵀ(Kx + k),

    S = [R₁; R₂], K = [D₁; D₂ + D₂R₁ᵀD₁], k = [b₁; b₂ + D₂R₁ᵀb₁]. The rows of S are not orthonormal; with the QR
    decomposition Sᵀ = QU, Sᵀ(Kx + k) = Q(UKx + Uk), so R = Qᵀ, W = R + UK, b = Uk. Computed in float64.

    Args:
        inner: R₁ [r₁, d], W₁ [r₁, d], b₁ [r₁].
        outer: R₂, W₂, b₂ likewise.
    """
    (R1, W1, b1), (R2, W2, b2) = ([value.double() for value in triple] for triple in (inner, outer))
    D1, D2 = W1 - R1, W2 - R2
    through = D2 @ R1.T
    K = torch.cat([D1, D2 + through @ D1])
    k = torch.cat([b1, b2 + through @ b1])
    Q, U = torch.linalg.qr(torch.cat([R1, R2]).T)
    dtype = inner[0].dtype
    return Q.T.to(dtype).contiguous(), (Q.T + U @ K).to(dtype), (U @ k).to(dtype)


def retract(R: torch.Tensor, W: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (R, W, b) with RRᵀ = I that computes the same function as the arguments do.

    Let R̃ be the argument and R̃ = S R its polar decomposition: S = (R̃R̃ᵀ)^{1/2} symmetric r×r, and R, the
    orthonormal matrix nearest to R̃, spans the same rows. The function of the arguments is
    x ↦ x + R̃ᵀ((W̃ − R̃)x + b̃) = x + Rᵀ(S(W̃ − R̃)x + S b̃), so

        W = R + S(W̃ − R̃),   b = S b̃

    makes Rᵀ(W − R) equal R̃ᵀ(W̃ − R̃) exactly, so the function does not change. Keeping W̃ instead would make every
    correction of R an unintended change of the function.

    Computed in float64 from the SVD R̃ = U Σ Vᵀ: R = UVᵀ, S = U Σ Uᵀ.

    Args:
        R: [r, d], of full row rank.
        W: [r, d].
        b: [r].

    Returns:
        R, W, b in the arguments' number format, ‖RRᵀ − I‖∞ ≤ 1e-5 in fp32.
    """
    wide = R.double()
    U, sigma, Vt = torch.linalg.svd(wide, full_matrices=False)
    orthonormal = U @ Vt
    S = (U * sigma) @ U.T
    shifted = orthonormal + S @ (W.double() - wide)
    return orthonormal.to(R.dtype), shifted.to(W.dtype), (S @ b.double()).to(b.dtype)
