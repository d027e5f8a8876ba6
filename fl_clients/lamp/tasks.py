"""The LaMP tasks: label sets, prompts of our own wording, and how a question or a history item is read.

A task is data and two small functions; adding one touches this file alone.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from configs.errors import InputError, nearest


@dataclass(frozen=True)
class Task:
    """One LaMP task."""

    name: str
    """The name in configs."""
    lamp_names: tuple[str, ...]
    """Names the `task` field of an outputs file may carry."""
    labels: tuple[str, ...]
    """The label set; empty for generation."""
    prompt: str
    """The prompt, with `{source}`; the answer follows after one space."""
    marker: str
    """What stands before the source text in a LaMP question."""
    history_pair: Callable[[dict[str, Any]], tuple[str, str]]
    """Makes (source, target) of a history item; raises KeyError on a missing field."""
    max_new_tokens: int = 64
    """Longest generated answer."""

    def question_source(self, text: str) -> str:
        """Return the source text of a LaMP question.

        Raises:
            ValueError: The question does not hold this task's marker.
        """
        _, found, source = text.partition(self.marker)
        if not found or not source.strip():
            raise ValueError(f"no '{self.marker.strip()}' in it: not a question of {self.name}")
        return source.strip()


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


def plain_wording(tweet: str) -> str:
    """Strip a tweet of its author's manner: links, mentions, emoticons, stretched letters, capitals, punctuation.

    LaMP-7 histories hold tweets without paraphrases. The private stage needs pairs like the questions', a
    neutral wording in and the author's own out, so the neutral side is made from the tweet by removing what is
    manner. What is left to learn is to put it back.
    """
    text = re.sub(r"https?://\S+|@\w+|&\w+;", " ", tweet.lower())
    text = re.sub(r"(\w)\1{2,}", r"\1", text)
    text = re.sub(r"[^\w\s']|_", " ", text)
    return " ".join(text.split())


TASKS = {
    task.name: task
    for task in (
        Task(
            name="movie_tagging",
            lamp_names=("LaMP_2", "LaMP_2M"),
            labels=MOVIE_TAGS,
            prompt="Movie: {source}\nTag:",
            marker="description:",
            history_pair=lambda item: (item["description"], item["tag"]),
        ),
        Task(
            name="tweet_paraphrase",
            lamp_names=("LaMP_7",),
            labels=(),
            prompt="Say it the way this person tweets: {source}\nTweet:",
            marker="without any explanation before or after it:",
            history_pair=lambda item: (plain_wording(item["text"]), item["text"].strip()),
        ),
    )
}


def find_task(name: str) -> Task:
    """Return a task by name.

    Raises:
        InputError: There is no such task; the nearest one is named.
    """
    if name not in TASKS:
        raise InputError(f"task: unknown task '{name}'{nearest(name, list(TASKS))} (known: {', '.join(TASKS)})")
    return TASKS[name]
