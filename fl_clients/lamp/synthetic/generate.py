"""Writes synthetic users in official LaMP format, together with the oracle scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import InputError
from configs.seeds import derive_seed
from configs.users import SyntheticConfig
from fl_clients.lamp.synthetic import authors, reviews, themes
from fl_clients.lamp.synthetic.taste import Generator, Taste, collective_taste, personal_taste
from fl_clients.lamp.tasks import Task

GENERATOR_VERSION = 5
"""Part of the cache key of generated users; increased when the same arguments would give other files."""

GENERATORS: dict[str, Generator] = {
    "movie_tagging": themes.MOVIES,
    "news_categorization": themes.NEWS,
    "product_rating": reviews.PRODUCTS,
    "news_headline": authors.HEADLINES,
    "scholarly_title": authors.TITLES,
    "tweet_paraphrase": authors.TWEETS,
}


def write_synthetic(task: Task, users: int, seed: int, settings: SyntheticConfig, folder: Path) -> None:
    """Write users in official LaMP format, and `oracle.json` next to them.

    Every LaMP question is a separate record; a user's questions are consecutive and have its `user_id`, and the first
    of them contains the profile.

    Args:
        task: A task in `GENERATORS`.
        users: Number of users.
        seed: Everything derives from it; the first n users are the same for every larger number.
        settings: Sizes, deviation and noise.
        folder: Created if missing.

    Raises:
        InputError: There is no generator for this task.
    """
    if task.name not in GENERATORS:
        raise InputError(
            f"task={task.name}: synthetic users exist only for {', '.join(GENERATORS)}; set users.source to a folder"
        )
    generator = GENERATORS[task.name]
    taste = crowd(generator, seed)
    folder.mkdir(parents=True, exist_ok=True)
    golds: list[dict[str, str]] = []
    scores: dict[str, dict[str, Any]] = {}
    with (folder / "synthetic_questions.json").open("w", encoding="utf-8") as file:
        file.write("[")
        for number in range(users):
            records, user_golds, user_scores = _user(f"s{number}", generator, taste, settings, _draws(seed, number))
            lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
            file.write((",\n" if number else "\n") + lines)
            golds += user_golds
            scores[f"s{number}"] = user_scores
        file.write("\n]\n")
    outputs = json.dumps({"task": task.lamp_names[0], "golds": golds}, ensure_ascii=False)
    (folder / "synthetic_outputs.json").write_text(outputs, encoding="utf-8")
    oracle = json.dumps({"metric": generator.metric, "users": scores})
    (folder / "oracle.json").write_text(oracle, encoding="utf-8")


def crowd(generator: Generator, seed: int) -> Taste:
    """Return the collective taste of a seed's users."""
    return collective_taste(generator.slots, np.random.default_rng(derive_seed(seed, "synthetic", "collective")))


def planted_taste(task: str, deviation: float, seed: int, user_id: str) -> Taste:
    """Return the worths that a synthetic user's items were drawn by; each slot [options].

    Args:
        task: A task in `GENERATORS`.
        deviation: `SyntheticConfig.deviation`.
        seed: The users' seed.
        user_id: The id of a synthetic user.
    """
    taste, draws = crowd(GENERATORS[task], seed), _draws(seed, int(user_id.removeprefix("s")))
    return personal_taste(taste, deviation, draws)


def _draws(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, "synthetic", "user", number))


def _user(
    user_id: str, generator: Generator, taste: Taste, settings: SyntheticConfig, draws: np.random.Generator
) -> tuple[list[dict[str, Any]], list[dict[str, str]], dict[str, Any]]:
    personal = personal_taste(taste, settings.deviation, draws)
    history = [generator.item(personal, taste, settings.noise, draws) for _ in range(settings.history)]
    asked = [generator.item(personal, taste, settings.noise, draws) for _ in range(settings.queries)]
    profile = [{"id": f"{user_id}-h{index}", **generator.fields(item)} for index, item in enumerate(history)]
    records = [
        {
            "id": f"{user_id}-q{index}",
            "user_id": user_id,
            "input": generator.question.format(source=item.source),
            "profile": [] if index else profile,
        }
        for index, item in enumerate(asked)
    ]
    golds = [{"id": f"{user_id}-q{index}", "output": item.target} for index, item in enumerate(asked)]
    scores = {
        "personalised": sum(item.personalised for item in asked),
        "collective": sum(item.collective for item in asked),
        "count": float(len(asked)),
        "differing": [f"{user_id}-q{index}" for index, item in enumerate(asked) if not item.agrees],
    }
    return records, golds, scores
