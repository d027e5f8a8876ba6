"""Directions in the space of hidden states: the strongest one (SVD) and the one that tells two kinds apart (CCS)."""

import torch


def top_directions(rows: torch.Tensor) -> torch.Tensor:
    """Return the first right singular vector of each layer's rows, of length 1; [layers, d], fp32.

    The rows are not centred (Chameleon, eq. 3). A layer whose rows are all 0 has the direction 0.

    Args:
        rows: [rows, layers, d].
    """
    per_layer = rows.double().transpose(0, 1)
    first = torch.linalg.svd(per_layer, full_matrices=False).Vh[:, 0]
    # A vector and its negative are equally right; the largest entry decides, so that clients and server agree.
    place = first.abs().argmax(dim=1, keepdim=True)
    some = per_layer.abs().amax(dim=(1, 2), keepdim=False)[:, None] > 0
    directions: torch.Tensor = (first * first.gather(1, place).sign() * some).float()
    return directions


def sketch(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Return `size` rows σ_j v_jᵀ for each layer, in place of all rows; [size, layers, d], fp32.

    H = UΣVᵀ and ΣVᵀ have the same HᵀH, so rows of many clients, stacked, have the same right singular vectors as their
    sketches, stacked: exactly if every client's rows have a rank of at most `size`.

    Args:
        rows: [rows, layers, d]; may be empty.
        size: Rows with 0 fill up what is missing.
    """
    _, layers, d = rows.shape
    sketched = torch.zeros(size, layers, d)
    if len(rows):
        singular = torch.linalg.svd(rows.double().transpose(0, 1), full_matrices=False)
        kept = min(size, singular.S.shape[1])
        sketched[:kept] = (singular.S[:, :kept, None] * singular.Vh[:, :kept]).transpose(0, 1).float()
    return sketched


def ccs_loss(theta: torch.Tensor, b: torch.Tensor, personal: torch.Tensor, neutral: torch.Tensor) -> torch.Tensor:
    """Return the loss of Contrast-Consistent Search of each probe; [restarts, layers].

    With g(x) = σ(θᵀx + b): the mean over pairs of (g(xᴺ) − (1 − g(xᴾ)))² + min(g(xᴺ), g(xᴾ)) (Chameleon, appendix A.4;
    Burns et al., ICLR 2023, square the minimum too).

    Args:
        theta: θ, [restarts, layers, d].
        b: [restarts, layers].
        personal: xᴾ, [pairs, layers, d].
        neutral: xᴺ, likewise.
    """
    first, second = ((torch.einsum("kld,rld->krl", states, theta) + b).sigmoid() for states in (personal, neutral))
    return ((second - (1 - first)) ** 2 + torch.minimum(first, second)).mean(dim=0)


def begin_probes(restarts: int, layers: int, d: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random θ [restarts, layers, d] and b [restarts, layers], uniform in ±1/√d like a linear layer's."""
    theta = torch.rand(restarts, layers, d, generator=generator)
    b = torch.rand(restarts, layers, generator=generator)
    return (2 * theta - 1) * d**-0.5, (2 * b - 1) * d**-0.5


def train_probes(
    theta: torch.Tensor, b: torch.Tensor, personal: torch.Tensor, neutral: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Train every probe with full batches; return θ, b and their losses [restarts, layers].

    AdamW with rate 1e-3 and decay 0.01, as in Burns et al.'s code; the arguments are those of `ccs_loss`.
    """
    theta, b = (value.clone().requires_grad_(True) for value in (theta, b))
    optimizer = torch.optim.AdamW([theta, b], lr=1e-3, weight_decay=0.01)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        # Probes do not share parameters, so the gradient of the sum is each one's own.
        ccs_loss(theta, b, personal, neutral).sum().backward()
        optimizer.step()
    with torch.no_grad():
        losses = ccs_loss(theta, b, personal, neutral)
    return theta.detach(), b.detach(), losses


def best_probes(theta: torch.Tensor, losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each layer's θ with the lowest loss, of length 1, [layers, d], and these losses, [layers]."""
    lowest, place = losses.min(dim=0)
    chosen = theta[place, torch.arange(theta.shape[1])]
    return torch.nn.functional.normalize(chosen, dim=1), lowest
