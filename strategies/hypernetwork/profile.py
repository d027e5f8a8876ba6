"""A user's profile as a text, and its embedding: the input of a hypernetwork."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from strategies.client_tools import ClientTools, TextPair
from strategies.method import BackboneShape
from strategies.prompting.wording import WORDINGS, shown_items, spread_items

WIDTHS = {"all-minilm-l6-v2": 384, "words": 384}
"""Width of the embedders that are not the backbone."""
_FEW = ("movie_tagging", "news_categorization", "product_rating")
"""Tasks with few different answers, so that how often each was given says something."""
_MENTIONS = 32
"""Answers named in a profile of a longer history: more would not fit into a sentence embedder's window."""


class ProfileSettings(NamedTuple):
    """What a profile holds."""

    embedder: str
    """`backbone`, or a key of `WIDTHS`."""
    items: int
    """Items at equal distances over the history."""
    contents: Literal["answers", "items", "both"]
    """Answers without their texts, items, or both. Tasks whose answers are texts have only items."""
    summary_tokens: int
    """Maximum length of a summary that the backbone writes; 0: none."""

    def width(self, backbone: BackboneShape) -> int:
        """Return the width of an embedding."""
        return WIDTHS.get(self.embedder, backbone.hidden)


def profile_text(client: ClientTools, settings: ProfileSettings) -> str:
    """Return a user's profile, what is most telling first: an embedder may cut its end."""
    parts = []
    wording = WORDINGS[client.task]
    contents = settings.contents if client.task in _FEW else "items"
    if contents != "items":
        parts.append(f"{wording.profile} {_answers(client.history)}.")
    items = shown_items(client.task, spread_items(client.history, settings.items)) if settings.items else ""
    if settings.summary_tokens:
        prompt = f"{items}\n\n{wording.preferences}"
        parts.append(f"{wording.preferences} {client.generate([prompt], settings.summary_tokens)[0]}")
    if contents != "answers":
        parts.append(items)
    return "\n".join(parts).strip()


def profile_embedding(client: ClientTools, settings: ProfileSettings, width: int) -> torch.Tensor:
    """Return the profile's embedding, of length √width; zeros for a user without history. Shape [width]."""
    if not client.history:
        return torch.zeros(width)
    return client.embed([profile_text(client, settings)], settings.embedder)[0] * math.sqrt(width)


def _answers(history: Sequence[TextPair]) -> str:
    """Name every answer as often as it was given: an embedder reads "action (7)" and "action (1)" almost alike."""
    counted = Counter(pair.target for pair in history)
    # By number, then by name: no order of the history shows.
    ranked = sorted(counted.items(), key=lambda each: (-each[1], each[0]))
    share = min(1.0, _MENTIONS / len(history))
    return ", ".join(answer for answer, count in ranked for _ in range(max(1, round(share * count))))
