"""Synthetic movie-tagging users with a planted collective preference and planted personal deviations.

The generative model: tag t has a collective worth c_t (evenly spaced, shuffled by the seed, unit variance); user u
values it at c_t + deviation·ε_{u,t}, ε standard normal. A description names three themes; the label is the one its
user values most, and with probability `noise` one of the other two. So the best score without knowing the user is
that of argmax c, and the best at all that of argmax over the user's own worths: the two oracles.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import InputError
from configs.schema import SyntheticConfig
from configs.seeds import derive_seed
from fl_clients.lamp.tasks import MOVIE_TAGS, Task

GENERATOR_VERSION = 1
"""Part of the cache key of generated users: counts up when the same arguments would give other texts."""

_THEMES: dict[str, tuple[str, ...]] = {
    "sci-fi": ("a starship crew", "robots from the future", "a colony on Mars"),
    "based on a book": (
        "a story taken from a novel",
        "a famous novel brought to the screen",
        "pages of a bestseller",
    ),
    "comedy": ("one silly joke after another", "a hilarious mix-up", "a clumsy hero who makes you laugh"),
    "action": ("car chases", "explosions and stunts", "a race against the clock"),
    "twist ending": (
        "a final surprise nobody expects",
        "a last-minute reveal",
        "an ending that changes everything",
    ),
    "dystopia": ("a grim totalitarian future", "a city under total surveillance", "a society in ruins"),
    "dark comedy": ("morbid jokes at a funeral", "gallows humour", "a wickedly funny murder"),
    "classic": (
        "a golden-age masterpiece in black and white",
        "an all-time great",
        "a film everyone has grown up with",
    ),
    "psychology": ("a mind coming apart", "a therapist and a patient", "memories that cannot be trusted"),
    "fantasy": ("wizards and dragons", "an enchanted forest", "a magical kingdom"),
    "romance": ("two people falling in love", "a love letter", "a wedding kiss"),
    "thought-provoking": ("questions that stay for days", "a deep moral puzzle", "ideas about free will"),
    "social commentary": (
        "a sharp look at inequality",
        "a critique of modern society",
        "poverty and privilege",
    ),
    "violence": ("brutal fights", "blood on the walls", "a savage gang war"),
    "true story": ("events that really happened", "a real person's life", "the facts of a famous case"),
}
_FRAMES = (
    "A film with {}, {} and {}.",
    "This one brings {}, then {}, and also {}.",
    "Expect {}, {}, and {}.",
    "We get {} together with {} and {}.",
)
_QUESTION = (
    "Which tag does this movie relate to among the following tags? Just answer with the tag name without further "
    "explanation. tags: [{tags}] description: {description}"
)


def write_synthetic(task: Task, users: int, seed: int, settings: SyntheticConfig, folder: Path) -> None:
    """Write users in official LaMP format, with `oracle.json` beside.

    A LaMP question is a record of its own; a user's questions stand together, name their `user_id`, and the first
    of them carries the profile.

    Args:
        task: `movie_tagging`.
        users: How many.
        seed: Everything derives from it; the first n of more users are the same n.
        settings: Sizes and strengths.
        folder: Made if missing.

    Raises:
        InputError: No generator for this task.
    """
    if task.name != "movie_tagging":
        raise InputError(f"task={task.name}: synthetic users exist for movie_tagging; give users.source a folder")
    folder.mkdir(parents=True, exist_ok=True)
    worth = collective_worth(seed)
    golds: list[dict[str, str]] = []
    oracle: dict[str, dict[str, float]] = {}
    with (folder / "synthetic_questions.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for number in range(users):
            records, own_golds, scores = _user(number, seed, worth, settings)
            lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
            file.write((",\n" if number else "\n") + lines)
            golds += own_golds
            oracle[str(records[0]["user_id"])] = scores
        file.write("\n]\n")
    outputs = json.dumps({"task": task.lamp_names[0], "golds": golds}, ensure_ascii=False)
    (folder / "synthetic_outputs.json").write_text(outputs, encoding="utf-8")
    (folder / "oracle.json").write_text(json.dumps(oracle), encoding="utf-8")


def collective_worth(seed: int) -> np.ndarray:
    """Return c, the collective worth of each tag; shape [15], mean 0, variance 1."""
    ladder = np.linspace(-1, 1, len(MOVIE_TAGS))
    shuffled = np.random.default_rng(derive_seed(seed, "synthetic", "collective")).permutation(ladder)
    return np.asarray(shuffled / shuffled.std())


def _user(
    number: int, seed: int, worth: np.ndarray, settings: SyntheticConfig
) -> tuple[list[dict[str, Any]], list[dict[str, str]], dict[str, float]]:
    generator = np.random.default_rng(derive_seed(seed, "synthetic", "user", number))
    own = worth + settings.deviation * generator.standard_normal(len(worth))
    user_id = f"s{number}"
    history = [
        {"id": f"{user_id}-h{index}", "description": description, "tag": MOVIE_TAGS[label]}
        for index, (description, label, _) in enumerate(_movies(settings.history, own, settings.noise, generator))
    ]
    records, golds, hits, collective_hits = [], [], 0, 0
    for index, (description, label, themes) in enumerate(_movies(settings.queries, own, settings.noise, generator)):
        text = _QUESTION.format(tags=", ".join(MOVIE_TAGS), description=description)
        profile = [] if index else history
        records.append({"id": f"{user_id}-q{index}", "user_id": user_id, "input": text, "profile": profile})
        golds.append({"id": f"{user_id}-q{index}", "output": MOVIE_TAGS[label]})
        hits += label == themes[np.argmax(own[themes])]
        collective_hits += label == themes[np.argmax(worth[themes])]
    scores = {
        "personalised": float(hits),
        "collective": float(collective_hits),
        "count": float(settings.queries),
    }
    return records, golds, scores


def _movies(
    count: int, own: np.ndarray, noise: float, generator: np.random.Generator
) -> Iterator[tuple[str, int, np.ndarray]]:
    for _ in range(count):
        themes = generator.choice(len(MOVIE_TAGS), size=3, replace=False)
        label = int(themes[np.argmax(own[themes])])
        if generator.random() < noise:
            label = int(generator.choice(themes[themes != label]))
        phrases = [_THEMES[MOVIE_TAGS[theme]][generator.integers(3)] for theme in themes]
        yield _FRAMES[generator.integers(len(_FRAMES))].format(*phrases), label, themes
