"""The LaMP tasks: label sets, prompts, and how questions and history items are read.

A task is data and a small function; adding one only changes this file (its synthetic users are a file in
`synthetic/`, its paper settings a TOML file in `configs/tasks/`). The label sets and the markers are LaMP's (arXiv
2304.11406, appendix A); the prompts are our own.
"""

import html
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from configs.errors import InputError, nearest
from fl_clients.lamp.plain_form import plain_form
from strategies.metrics.points import Baseline


@dataclass(frozen=True)
class Task:
    """One LaMP task."""

    name: str
    """The name in configs."""
    lamp_names: tuple[str, ...]
    """Values that the `task` field of an outputs file may have."""
    kind: Literal["labels", "ratings", "texts"]
    """The kind of answers, which decides the metrics: accuracy and macro-F1, MAE and RMSE, or ROUGE."""
    labels: tuple[str, ...]
    """The label set; empty for texts. No label is a prefix of another."""
    prompt: str
    """The prompt, with `{source}`; the answer follows after one space."""
    opening: str
    """The beginning of a LaMP question of this task."""
    marker: str
    """The text right before the source text of a question."""
    history_fields: tuple[str, str]
    """The fields of a history item that hold the source text and the target."""
    official_path: str
    """Folder of the official files, below the download address of a split."""
    max_new_tokens: int
    """Maximum length of a generated answer, in tokens."""
    source_of: Callable[[str], str] = str
    """Turns the source field of a history item into the source text."""
    baselines: tuple[Baseline, ...] = ()
    """Trivial answers to compare with."""

    def history_pair(self, item: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return (source, target) of a history item, or None if one of its texts is empty.

        Raises:
            KeyError: A field is missing.
            TypeError: A field is not a text.
            ValueError: The target is not a label of this task.
        """
        source, target = (read_text(item[field]) for field in self.history_fields)
        source = self.source_of(source)
        return (source, self.read_target(target)) if source and target else None

    def read_target(self, text: str) -> str:
        """Return a target without surrounding white space; a label in the task's own spelling.

        Raises:
            ValueError: It is not a label of this task.
        """
        text = text.strip()
        if not self.labels or text in self.labels:
            return text
        spelling = html.unescape(text).casefold()
        if self.kind == "ratings":
            spelling = re.sub(r"\.0+$", "", spelling)
        if spelling not in self.labels:
            raise ValueError(f"{text!r} is not a label of {self.name} ({', '.join(self.labels)})")
        return spelling

    def question_source(self, text: str) -> str:
        """Return the source text of a LaMP question, which may be empty.

        Raises:
            ValueError: The text is not a question of this task.
        """
        _, marker, source = text.partition(self.marker)
        if not text.lstrip().startswith(self.opening) or not marker:
            raise ValueError(f"expected '{self.opening} … {self.marker.strip()} …': not a question of {self.name}")
        return read_text(source).strip()


def read_text(value: Any) -> str:
    """Return a value of a JSON file as text; `null`, NaN and texts without a visible character are the empty text.

    Raises:
        TypeError: It is neither a text nor a number.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError(f"expected a text, not {value!r}")
    text = str(value)
    return text if any(map(_is_visible, text)) else ""


def _is_visible(letter: str) -> bool:
    blank = letter.isspace() or not letter.isprintable() or letter in _BLANKS
    return not blank and unicodedata.category(letter) not in ("Mn", "Me")


_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Hangul fillers and the empty Braille cell: letters and symbols that show nothing."""


MOVIE_TAGS = (
    "sci-fi",
    "based on a book",
    "comedy",
    "action",
    "twist ending",
    "dystopia",
    "dark comedy",
    "classic",
    "psychology",
    "fantasy",
    "romance",
    "thought-provoking",
    "social commentary",
    "violence",
    "true story",
)


NEWS_CATEGORIES = (
    "women",
    "religion",
    "politics",
    "style & beauty",
    "entertainment",
    "culture & arts",
    "sports",
    "science & technology",
    "travel",
    "business",
    "crime",
    "education",
    "healthy living",
    "parents",
    "food & drink",
)

RATINGS = ("1", "2", "3", "4", "5")

TASKS = {
    task.name: task
    for task in (
        Task(
            name="movie_tagging",
            lamp_names=("LaMP_2", "LaMP_2M"),
            kind="labels",
            labels=MOVIE_TAGS,
            prompt="Movie: {source}\nTag:",
            opening="Which tag does this movie relate to",
            marker="description:",
            history_fields=("description", "tag"),
            official_path="LaMP_2/new",
            max_new_tokens=12,
            baselines=(Baseline.USUAL,),
        ),
        Task(
            name="news_categorization",
            lamp_names=("LaMP_2", "LaMP_2N"),
            kind="labels",
            labels=NEWS_CATEGORIES,
            prompt="Article: {source}\nCategory:",
            opening="Which category does this article relate to",
            marker="] article:",
            history_fields=("text", "category"),
            official_path="LaMP_2",
            max_new_tokens=12,
            baselines=(Baseline.USUAL,),
        ),
        Task(
            name="product_rating",
            lamp_names=("LaMP_3",),
            kind="ratings",
            labels=RATINGS,
            prompt="Review: {source}\nStars, from 1 to 5:",
            opening="What is the score of the following review",
            marker="review:",
            history_fields=("text", "score"),
            official_path="LaMP_3",
            max_new_tokens=4,
            baselines=(Baseline.USUAL,),
        ),
        Task(
            name="news_headline",
            lamp_names=("LaMP_4",),
            kind="texts",
            labels=(),
            prompt="Article: {source}\nHeadline:",
            opening="Generate a headline for the following article",
            marker="article:",
            history_fields=("text", "title"),
            official_path="LaMP_4",
            max_new_tokens=40,
            baselines=(Baseline.COPY, Baseline.FIRST_SENTENCE),
        ),
        Task(
            name="scholarly_title",
            lamp_names=("LaMP_5",),
            kind="texts",
            labels=(),
            prompt="Abstract: {source}\nTitle:",
            opening="Generate a title for the following abstract of a paper",
            marker="paper:",
            history_fields=("abstract", "title"),
            official_path="LaMP_5",
            max_new_tokens=40,
            baselines=(Baseline.COPY, Baseline.FIRST_SENTENCE),
        ),
        Task(
            name="tweet_paraphrase",
            lamp_names=("LaMP_7",),
            kind="texts",
            labels=(),
            prompt="Say it the way this person tweets: {source}\nTweet:",
            opening="Paraphrase the following tweet",
            marker="before or after it:",
            history_fields=("text", "text"),
            source_of=plain_form,
            official_path="LaMP_7",
            max_new_tokens=56,
            baselines=(Baseline.COPY,),
        ),
    )
}


def find_task(name: str) -> Task:
    """Return a task by name.

    Raises:
        InputError: There is no such task; the message suggests the nearest name.
    """
    if name not in TASKS:
        raise InputError(f"task: unknown task '{name}'{nearest(name, list(TASKS))} (known: {', '.join(TASKS)})")
    return TASKS[name]
