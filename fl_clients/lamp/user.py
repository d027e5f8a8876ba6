"""A LaMP user and the texts of its history and questions."""

import hashlib
import html
from dataclasses import dataclass
from typing import Literal

from fl_clients.lamp.tasks import Task
from strategies.metrics.words import UnicodeTokenizer, latin_words

_TOKENIZER = UnicodeTokenizer()
Pool = Literal["any", "collective", "target"]


@dataclass(frozen=True)
class Pair:
    """A source text with its target: one history item or one question with its gold."""

    item_id: str
    source: str
    target: str


@dataclass(frozen=True)
class User:
    """One LaMP user."""

    user_id: str
    history: list[Pair]
    """Oldest first if every item has a date that can be read, else in the file's order."""
    queries: list[Pair]
    pool: Pool
    """The user's role in the files; `any` if they assign none."""
    leaks: int
    """Number of history items left out because they reveal a question's answer."""
    skipped: int
    """Number of history items and questions left out because a text or a gold is empty, plus a collective user's
    questions without a gold."""
    joined: int = 0
    """Number of questions that are this user's because of their profiles; 0 if the files name the user."""
    unread_dates: bool = False
    """Items have dates, but not all can be read, so the history is in the file's order."""


def text_key(text: str) -> bytes:
    """Return the same 16 bytes for texts with the same words: capitals, punctuation and HTML's escapes do not count."""
    text = html.unescape(html.unescape(text))
    words = latin_words(text) if text.isascii() else _TOKENIZER.tokenize(text)
    return hashlib.blake2b(" ".join(words or text.split()).encode(), digest_size=16).digest()


def revealing_keys(pair: Pair, task: Task) -> set[bytes]:
    """Return the keys of a pair's source and, if answers are texts, of its target: either gives the pair away."""
    return {text_key(text) for text in ((pair.source,) if task.labels else (pair.source, pair.target))}
