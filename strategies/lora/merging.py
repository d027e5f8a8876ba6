"""Products BA that clients merge into their frozen weights (FLoRA, FedEx-LoRA), and which rounds a client still lacks.

A round's change of one weight is a product of stacked factors, ΔW = B A with A ∈ ℝ^{R×n}, B ∈ ℝ^{m×R}. A client that
was not sampled in some rounds is later sent the rounds it lacks. If their stacked rank makes the factors larger than
the weight, their sum, m×n, is sent instead. The client adds what it receives to what it has kept, and keeps the sum.

In the server's state, a round's factors are `server_stack.<round>.<module>.A` and `.B`, and `server_seen.<user>` is the
last round whose change the user has.
"""

from collections.abc import Iterable

import torch

from strategies.lora.adapters import LoraAdapters
from strategies.method import Tensors

_STACK, _SEEN = "server_stack", "server_seen"
_SENT, _KEPT = "shared_base", "kept_base"


def push(state: Tensors, round_number: int, changes: Tensors, users: Iterable[int]) -> Tensors:
    """Return the state after a round.

    Args:
        state: The server's state.
        round_number: The round's number.
        changes: `<module>.A` and `<module>.B`, the round's stacked factors.
        users: The users who took part; before training they were sent all earlier rounds.
    """
    stacked = {f"{_STACK}.{round_number}.{name}": value.float() for name, value in changes.items()}
    seen = {f"{_SEEN}.{user}": torch.tensor(round_number - 1) for user in users}
    return state | stacked | seen


def missing(state: Tensors, user: int | None) -> Tensors:
    """Return what `user` lacks, as factors or as their sum, whichever is smaller; a newcomer lacks everything."""
    seen = int(state.get(f"{_SEEN}.{user}", torch.tensor(0)))
    parts: dict[str, dict[int, tuple[torch.Tensor, torch.Tensor]]] = {}
    for name, A in state.items():
        kind, _, rest = name.partition(".")
        round_number, _, factor = rest.partition(".")
        if kind == _STACK and factor.endswith(".A") and int(round_number) > seen:
            pair = A, state[name.removesuffix("A") + "B"]
            parts.setdefault(factor.removesuffix(".A"), {})[int(round_number)] = pair
    sent: Tensors = {}
    for module, by_round in parts.items():
        # By number: a checkpoint's tensors are sorted by name, round 10 before round 2.
        factors = [by_round[number] for number in sorted(by_round)]
        A, B = torch.cat([A for A, _ in factors]), torch.cat([B for _, B in factors], dim=1)
        if A.numel() + B.numel() <= len(B) * A.shape[1]:
            sent |= {f"{_SENT}.{module}.A": A, f"{_SENT}.{module}.B": B}
        else:
            sent[f"{_SENT}.{module}.W"] = B @ A
    return sent


def merge(sent: Tensors, kept: Tensors) -> Tensors:
    """Return what a client keeps after receiving `sent`: `kept_base.<module>.W`, [m, n]."""
    merged = {name: value for name, value in kept.items() if name.startswith(f"{_KEPT}.")}
    for name, value in sent.items():
        kind, _, rest = name.partition(".")
        module, _, letter = rest.rpartition(".")
        if kind == _SENT and letter != "B":
            change = value if letter == "W" else sent[f"{_SENT}.{module}.B"] @ value
            key = f"{_KEPT}.{module}.W"
            merged[key] = merged[key] + change if key in merged else change
    return merged


def set_base(adapter: LoraAdapters, kept: Tensors) -> None:
    """Make the adapter's frozen weights W + the kept changes."""
    adapter.add_to_base({name.removeprefix(f"{_KEPT}.").removesuffix(".W"): value for name, value in kept.items()})
