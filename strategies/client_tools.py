"""What a client hands a method: its training loop, its user's texts, and the frozen backbone to use on them.

A method that tunes nothing, or steers, needs more than tensors. It finds it at `fit.client`, in both stages. Nothing of
it can be sent by itself: a message holds tensors named `shared_*` and the client's report, and no text.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import nn


class TextPair(Protocol):
    """One item of a history: a text and the user's answer to it."""

    @property
    def source(self) -> str:
        """The text."""

    @property
    def target(self) -> str:
        """The user's answer: a label, a rating or a text."""


@dataclass(frozen=True)
class Preference:
    """A text with two answers to it."""

    source: str
    better: str
    worse: str


@dataclass(frozen=True)
class Context:
    """What is put before a question in its prompt.

    The client fits it into the room that the question leaves: the question itself is never cut for it.
    """

    profile: str = ""
    """A text about the user; cut at its end if it is longer than the room, or half of it if there are items."""
    items: Sequence[TextPair] = ()
    """Answered items, the best first. They share the room; a source text is cut at its end, an answer never."""


@dataclass(frozen=True)
class FitResult:
    """Result of one local training."""

    examples: int
    """Examples of the client; one epoch is one pass over them."""
    steps: int
    """Optimiser steps."""
    loss_first: float | None = None
    """Mean loss of the first step, nats per answer token; None without steps."""
    loss_last: float | None = None
    """Mean loss of the last step, likewise."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What else the method wants recorded of this client (`method.*` among the metrics of `clients.parquet`)."""


class Fit(Protocol):
    """The one local training loop (fl_clients/fit.py), bound to a client's examples and settings."""

    @property
    def client(self) -> "ClientTools":
        """The user's texts and the bare backbone, for methods that need more than a training."""

    def __call__(
        self,
        parameters: Iterable[nn.Parameter],
        after_step: Callable[[], None] = ...,
        rates: Sequence[float] | None = ...,
        /,
    ) -> FitResult:
        """Train `parameters` in place.

        Args:
            parameters: What is trained.
            after_step: Called once after every optimiser step.
            rates: Learning rate of each parameter, as a multiple of the config's; None: 1 for all.
        """

    def loss(self, batches: int, /) -> float:
        """Return the mean loss over `batches` of the client's batches, nats per answer token, without training."""


LONGEST = 1024
"""Tokens of a prompt and what `ClientTools.generate` adds to it, if the backbone reads as many."""


class UserTexts(Protocol):
    """One user's texts, as a method may read them when a question comes."""

    task: str
    """Name of the LaMP task."""
    history: Sequence[TextPair]
    """The user's items in the order of time, without those that give a question's answer away. In stage 1 a collective
    user's answered questions are last."""


class ClientTools(UserTexts, Protocol):
    """One user's texts, and the bare backbone. Everything is deterministic: texts are decoded greedily."""

    def secret(self) -> int:
        """Return 256 bits that noise may follow from: of the run's seed in a simulation, of the device's own else."""

    def prompt(self, source: str) -> str:
        """Return the task's prompt for a text; an answer follows after one space."""

    def answers(self, sources: Sequence[str]) -> list[str]:
        """Return what the bare backbone answers to texts, without the history."""

    def generate(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Continue texts, greedily, until the end of the line; a text that is too long is cut in its middle."""

    def states(self, texts: Sequence[str], place: Literal["block", "mlp"]) -> torch.Tensor:
        """Return the bare backbone's hidden states at the end token after each text; [texts, blocks, d], fp32.

        Args:
            texts: At least one. All end with the same token, so that states do not differ by how a text ends.
            place: The output of a decoder block, or of the MLP in it before it joins the residual stream.
        """

    def fit_on(self, pairs: Sequence[TextPair], budget_s: float) -> Fit:
        """Return the training loop of stage 2 on other examples than the user's own.

        Args:
            pairs: At least one text with its answer.
            budget_s: Seconds after which training stops, whatever is left; 0: no limit. With a limit, results depend on
                the machine.
        """

    def prefer(self, preferences: Sequence[Preference], beta: float, budget_s: float) -> Fit:
        """Return the training loop of stage 2 with the loss of Direct Preference Optimization.

        −log σ(β[(log π(y⁺) − log π₀(y⁺)) − (log π(y⁻) − log π₀(y⁻))]), π₀ the bare backbone (Rafailov et al., NeurIPS
        2023, eq. 7).

        Args:
            preferences: At least one text with a better and a worse answer.
            beta: β.
            budget_s: As for `fit_on`.
        """

    def embed(self, texts: Sequence[str], embedder: str) -> torch.Tensor:
        """Return sentence embeddings of length 1; [texts, dimensions], fp32.

        Args:
            texts: At least one.
            embedder: `backbone`: the mean of the last hidden states; `words`: counts of hashed words; or a sentence
                embedder by name.
        """
