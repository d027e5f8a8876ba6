"""A user's profile as a text, and its embedding: the input of a hypernetwork."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch

from strategies.client_tools import ClientTools, TextPair
from strategies.method import BackboneShape
from strategies.prompting.wording import WORDINGS, shown_items, spread_items

WIDTHS = {"all-minilm-l6-v2": 384, "words": 384}
"""Width of the embedders that are not the backbone."""
_COUNTED = ("movie_tagging", "news_categorization", "product_rating")
"""Tasks whose answers are few, so that counting them says something."""


class ProfileSettings(NamedTuple):
    """What a profile holds."""

    embedder: str
    """`backbone`, or a key of `WIDTHS`."""
    items: int
    """Items at equal distances over the history."""
    statistics: bool
    """How often each answer was given, for tasks with labels or ratings."""
    summary_tokens: int
    """Maximum length of a summary that the backbone writes; 0: none."""

    def width(self, backbone: BackboneShape) -> int:
        """Return the width of an embedding."""
        return WIDTHS.get(self.embedder, backbone.hidden)


def profile_text(client: ClientTools, settings: ProfileSettings) -> str:
    """Return a user's profile, what is most telling first: an embedder may cut its end."""
    parts = []
    wording = WORDINGS[client.task]
    if settings.statistics and client.task in _COUNTED:
        parts.append(f"{wording.profile} {_counts(client.history)}.")
    shown = shown_items(client.task, spread_items(client.history, settings.items)) if settings.items else ""
    if settings.summary_tokens:
        begun = f"{shown}\n\n{wording.preferences}"
        parts.append(f"{wording.preferences} {client.generate([begun], settings.summary_tokens)[0]}")
    return "\n".join([*parts, shown]).strip()


def profile_embedding(client: ClientTools, settings: ProfileSettings, width: int) -> torch.Tensor:
    """Return the profile's embedding, of length √width; zeros for a user without history. Shape [width]."""
    if not client.history:
        return torch.zeros(width)
    return client.embed([profile_text(client, settings)], settings.embedder)[0] * math.sqrt(width)


def _counts(history: Sequence[TextPair]) -> str:
    counted = Counter(pair.target for pair in history)
    # By number, then by name: no order of the history shows.
    ranked = sorted(counted.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{answer} ({count})" for answer, count in ranked)
