"""δ-vectors: how a user's own history moves the hidden state at the end of a question (PerFit, section 3, appendix B).

Federated: every user sends its vectors once, in the opening, and nothing is trained. `fedperfit analyze` reads them.
"""

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from configs.seeds import derive_seed
from strategies import shifts
from strategies.bounds import check_at_least
from strategies.client_tools import ClientTools
from strategies.method import BackboneShape, FitResult, Method, Tensors, TrainRequest, TrainResult
from strategies.prompting.notes import Notes
from strategies.prompting.retrieval import best_matches
from strategies.prompting.wording import shown_items

DELTA, RANDOM = "server_delta.", "server_random."
_SENT = {"shared_delta": DELTA, "shared_random": RANDOM}


class DeltaVectors(Method):
    """δ_u = mean over a user's last items of h(with the items before it in the prompt) − h(without), at every site.

    The control puts as many made-up words before the question: what any prefix does.
    """

    name = "delta"
    first_round = 0
    last_round = 0
    constant_shapes = False
    introduces = True

    def __init__(self, sites: list[int], k: int, questions: int, clip: float, seed: int) -> None:
        """Take the settings.

        Args:
            sites: Blocks whose output is read.
            k: Items before a question, by BM25.
            questions: Items of a user that serve as questions, the last ones.
            clip: Greatest length of a sent vector at one site; 0: no limit.
            seed: The run's seed.

        Raises:
            ValueError: A number is too small.
        """
        self.sites = shifts.checked_sites(sites)
        check_at_least(1, k=k, questions=questions)
        check_at_least(0, clip=clip)
        self.k, self.questions, self.clip, self.seed = k, questions, clip, seed

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return the width of the vectors, which the server does not know otherwise.

        Raises:
            ValueError: A site is beyond the last block.
        """
        shifts.check_fit("sites", dict.fromkeys(self.sites, 1), backbone)
        return {"server_width": torch.tensor(float(backbone.hidden))}

    def server_send(self, _state: Tensors, _user: int | None) -> Tensors:
        """Return nothing."""
        return {}

    def server_keeps(self, state: Tensors) -> Tensors:
        """Return every user's vectors, for the analysis."""
        return {name: value for name, value in state.items() if name.startswith((DELTA, RANDOM))}

    def server_aggregator(self, state: Tensors, _round_number: int) -> "Vectors":
        """Return the aggregator that keeps every user's vectors."""
        return Vectors(state, len(self.sites))

    def client_attach(self, _model: nn.Module, backbone: BackboneShape) -> Notes:
        """Attach nothing."""
        self.width = backbone.hidden
        return Notes()

    def client_train(self, _adapter: Notes, request: TrainRequest) -> TrainResult:
        """Compute the user's vectors; zeros without two items."""
        client = request.fit.client
        vectors = dict(zip(_SENT, self._vectors(client), strict=True))
        sent = {name: self._clipped(value) for name, value in vectors.items()}
        return TrainResult(sent, FitResult(len(client.history), 0))

    def client_load(self, _adapter: Any, _shared: Tensors, _private: Tensors | None) -> None:
        """Change nothing."""

    def shared_parameters(self, backbone: BackboneShape) -> int:
        """Return 2Ld: the vectors and the control's at L sites."""
        return 2 * len(self.sites) * backbone.hidden

    def _vectors(self, client: ClientTools) -> tuple[torch.Tensor, torch.Tensor]:
        history = list(client.history)
        asked = range(max(1, len(history) - self.questions), len(history))
        plain, own, made_up = [], [], []
        for place in asked:
            question = client.prompt(history[place].source)
            shown = shown_items(client.task, best_matches(history[:place], history[place].source, self.k))
            plain.append(question)
            own.append(f"{shown}\n\n{question}")
            seed = derive_seed(self.seed, "made-up words", place, question)
            made_up.append(f"{_made_up_words(len(shown.split()), seed)}\n\n{question}")
        if not plain:
            return torch.zeros(len(self.sites), self.width), torch.zeros(len(self.sites), self.width)
        states = client.states([*plain, *own, *made_up], "block")[:, self.sites]
        bare, with_history, with_words = states.split(len(plain))
        return (with_history - bare).mean(dim=0), (with_words - bare).mean(dim=0)

    def _clipped(self, vectors: torch.Tensor) -> torch.Tensor:
        if not self.clip:
            return vectors
        norms = vectors.norm(dim=1, keepdim=True).clamp(min=1e-12)
        shorter: torch.Tensor = vectors * (self.clip / norms).clamp(max=1.0)
        return shorter


class Vectors:
    """Keeps every user's vectors; zeros are none."""

    per_user = True

    def __init__(self, state: Tensors, sites: int) -> None:
        """Start the opening, or the target users' part in it."""
        self._state, self._came = dict(state), 0
        width = int(state["server_width"])
        self.expected = {name: torch.zeros(sites, width) for name in _SENT}

    def add(self, user: int, shared: Tensors, _num_examples: int) -> None:
        """Keep one user's vectors."""
        if shared["shared_delta"].any():
            self._state |= {f"{prefix}{user}": shared[name] for name, prefix in _SENT.items()}
            self._came += 1

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Return the state, and how many users have vectors."""
        return self._state, {"users": float(self._came)}


def _made_up_words(count: int, seed: int) -> str:
    """Return words of made-up syllables: a prefix of a given length without content."""
    draw = random.Random(seed)

    def word() -> str:
        return "".join(draw.choice("bdfklmnprstv") + draw.choice("aeiou") for _ in range(draw.randint(1, 4)))

    return " ".join(word() for _ in range(count))
