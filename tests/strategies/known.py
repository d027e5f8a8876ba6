"""A client whose texts and states are known, and a training whose result is."""

from collections.abc import Sequence
from typing import Any

import torch

from fl_clients.lamp.user import Pair
from strategies.client_tools import ClientTools, FitResult, Preference, TextPair

LAYERS, D = 3, 16
HISTORY = [Pair(str(n), f"text {n} about {'war' if n % 2 else 'love'}", f"answer {n}") for n in range(8)]


class KnownClient:
    """A client's tools with texts and states that follow from the prompts alone."""

    task = "movie_tagging"

    def __init__(self, history: Sequence[TextPair] = HISTORY, same: int = 0) -> None:
        """Let the first `same` pairs have equal answers."""
        self.history, self.same = history, same
        self.asked: list[str] = []

    def prompt(self, source: str) -> str:
        return f"Movie: {source}\nTag:"

    def answers(self, sources: Sequence[str]) -> list[str]:
        return [f"plain {len(source)}" for source in sources]

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        self.asked += prompts
        half = len(prompts) // 2
        return [f"said {max_new_tokens} {place if place % half >= self.same else 0}" for place in range(len(prompts))]

    def states(self, texts: Sequence[str], place: str) -> torch.Tensor:
        found = [torch.randn(LAYERS, D, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in texts]
        return torch.stack(found)

    def embed(self, texts: Sequence[str], embedder: str) -> torch.Tensor:
        return torch.nn.functional.normalize(self.states(texts, "block")[:, 0], dim=1)

    def fit_on(self, pairs: Sequence[TextPair], budget_s: float) -> Any:
        raise AssertionError("not used")

    def prefer(self, preferences: Sequence[Preference], beta: float, budget_s: float) -> Any:
        raise AssertionError("not used")


class KnownFit:
    """A training that sets every parameter to a value, after the hooks on its gradient."""

    def __init__(self, client: ClientTools, value: float = 1.0) -> None:
        self.client, self.value = client, value
        self.gradients: list[torch.Tensor] = []

    def __call__(self, parameters: Any, *_: Any) -> FitResult:
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.sum().backward()
            self.gradients.append(parameter.grad.clone())
            parameter.grad = None
            parameter.requires_grad_(False)
            parameter.data.fill_(self.value)
        return FitResult(4, 2, 2.0, 1.0)

    def loss(self, _batches: int) -> float:
        return 1.5
