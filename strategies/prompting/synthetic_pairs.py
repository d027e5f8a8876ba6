"""Pairs of a personal and a neutral answer that the backbone writes about a user's own items (Chameleon, section 3.1).

The source gives the structure of its prompts but not those of the insights, nor how its scores are reduced. Ours: see
each function. The items themselves serve as questions, so that no held-out question is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from strategies.client_tools import ClientTools, TextPair
from strategies.prompting.wording import WORDINGS, shown_items

_COMPONENTS = 5
"""Principal components that items are scored by."""
_PERSONAL = "You are a helpful personalised assistant. Answer as this person would, judging by what came before."
_NEUTRAL = "You are a generic and impersonal assistant. Do not consider what this person likes or did before."


@dataclass(frozen=True)
class AnsweredText:
    """A text with a synthetic answer."""

    source: str
    target: str


@dataclass(frozen=True)
class SyntheticPair:
    """Two answers to one question, with what came before each."""

    source: str
    """The question's text."""
    personal: str
    """The answer of the personal role."""
    neutral: str
    """The answer of the neutral role."""
    before: str
    """The prompt's end that both share: the items and the question."""


def representative_places(client: ClientTools, count: int, embedder: str) -> list[int]:
    """Return where the items are that lie furthest out along the principal components of all, in the order of time.

    With centred embeddings E and their first components W, z = EW, items are ranked by Σ_j log(|z_j| + 1e-8) (eq. 1, 2;
    the source neither says how |z| becomes one number nor whether E is centred).

    Args:
        client: The user's tools.
        count: How many; a shorter history is returned whole.
        embedder: As for `ClientTools.embed`.
    """
    history = client.history
    if len(history) <= count:
        return list(range(len(history)))
    embeddings = client.embed([f"{item.source} {item.target}" for item in history], embedder).double()
    centred = embeddings - embeddings.mean(dim=0)
    components = torch.linalg.svd(centred, full_matrices=False).Vh[:_COMPONENTS]
    scores = ((centred @ components.T).abs() + 1e-8).log().sum(dim=1)
    chosen: list[int] = scores.argsort(descending=True, stable=True)[:count].sort().values.tolist()
    return chosen


def write_insights(client: ClientTools, items: Sequence[TextPair], tokens: int) -> tuple[str, str]:
    """Return what the backbone concludes about the user, and about answers that suit everybody.

    Args:
        client: The user's tools.
        items: The items it reads; both see them, or a probe would only find out which answer saw a history.
        tokens: Maximum length of either.
    """
    shown = shown_items(client.task, items)
    begins = WORDINGS[client.task].preferences, "An answer that suits everybody is"
    rests = client.generate([f"{shown}\n\n{begin}" for begin in begins], tokens)
    personal, neutral = (f"{begin} {rest}" for begin, rest in zip(begins, rests, strict=True))
    return personal, neutral


def write_pairs(
    client: ClientTools, items: Sequence[TextPair], insights: tuple[str, str], tokens: int
) -> list[SyntheticPair]:
    """Return a pair for every item, in its order; for each question the other items are shown.

    Args:
        client: The user's tools.
        items: The items, whose texts are the questions.
        insights: Of `write_insights`.
        tokens: Maximum length of an answer.
    """
    ends = []
    for place, item in enumerate(items):
        others = [other for number, other in enumerate(items) if number != place]
        ends.append(f"{shown_items(client.task, others)}\n\n{client.prompt(item.source)}")
    roles = [f"{role} {insight}" for role, insight in zip((_PERSONAL, _NEUTRAL), insights, strict=True)]
    written = client.generate([f"{role}\n\n{end}" for role in roles for end in ends], tokens)
    halves = written[: len(items)], written[len(items) :]
    return [
        SyntheticPair(item.source, personal, neutral, end)
        for item, personal, neutral, end in zip(items, *halves, ends, strict=True)
    ]


def differing(pairs: Sequence[SyntheticPair]) -> list[SyntheticPair]:
    """Return the pairs whose answers differ; the others say nothing about the user."""
    return [pair for pair in pairs if pair.personal != pair.neutral]
