"""What the backbone is asked to write about a user, by task. All wordings are our own."""

from collections.abc import Sequence
from dataclasses import dataclass

from strategies.client_tools import TextPair

_WORDS = 60
"""Words of an item's text that are shown to the backbone."""


@dataclass(frozen=True)
class Wording:
    """How one task's items are shown, and how two kinds of text about their author begin."""

    heading: str
    """Precedes the items."""
    item: str
    """One item, with {source} and {target}."""
    profile: str
    """Begins a profile: what this person's answers are like (PAG)."""
    preferences: str
    """Begins a summary of preferences (LLM-REC)."""


WORDINGS = {
    "movie_tagging": Wording(
        "Tags that one person gave to movies:",
        "{source} Tag: {target}",
        "The tags that this person uses most often are",
        "In a movie this person looks for",
    ),
    "news_categorization": Wording(
        "Categories that one journalist filed articles under:",
        "{source} Category: {target}",
        "The categories that this journalist writes for most often are",
        "This journalist is interested in",
    ),
    "product_rating": Wording(
        "Reviews by one person, with the stars from 1 to 5:",
        "{source} Stars: {target}",
        "The stars that this person gives most often are",
        "This person likes products that",
    ),
    "news_headline": Wording(
        "Articles by one journalist, with their headlines:",
        "{source} Headline: {target}",
        "The headlines of this journalist are",
        "This journalist likes to write about",
    ),
    "scholarly_title": Wording(
        "Abstracts by one researcher, with their titles:",
        "{source} Title: {target}",
        "The titles of this researcher are",
        "This researcher works on",
    ),
    "tweet_paraphrase": Wording(
        "Tweets by one person:",
        "{target}",
        "The tweets of this person are",
        "This person likes to tweet about",
    ),
}


def shown_items(task: str, items: Sequence[TextPair]) -> str:
    """Return items as text under the task's heading, one a line; long source texts without their end."""
    wording = WORDINGS[task]
    lines = [wording.item.format(source=_first_words(item.source), target=item.target) for item in items]
    return "\n".join([wording.heading, *(f"- {' '.join(line.split())}" for line in lines)])


def spread_items(history: Sequence[TextPair], count: int) -> list[TextPair]:
    """Return `count` items at equal distances over the history, all if there are fewer; the last is among them."""
    count = min(count, len(history))
    return [history[(place + 1) * len(history) // count - 1] for place in range(count)]


def _first_words(text: str) -> str:
    words = text.split()
    return " ".join(words[:_WORDS]) + ("…" if len(words) > _WORDS else "")
