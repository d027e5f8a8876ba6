"""Synthetic reviewers, who differ in the weight they give to aspects and in their generosity.

A review praises or criticises three of six aspects, mostly in one tone, and ends with a summary of its tone. The rating
is 3 plus a multiple of the sum of the verdicts (+1 or −1) weighted by the user, plus a multiple of the user's
generosity, rounded and clipped to 1 … 5. With probability `noise` it is one star off.
"""

from collections.abc import Sequence

import numpy as np

from fl_clients.lamp.synthetic.taste import Generator, Item, Reader, Taste

_ASPECTS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "sound",
        ("The sound is rich and clear", "It sounds wonderful"),
        ("The sound is thin", "It sounds tinny"),
    ),
    ("price", ("It costs next to nothing", "A real bargain"), ("It is far too expensive", "Not worth the money")),
    ("build", ("It is built like a tank", "Very solid in the hand"), ("It feels flimsy", "It broke within a week")),
    ("looks", ("It looks gorgeous", "The finish is beautiful"), ("It looks cheap", "The colour is ugly")),
    ("service", ("Delivery was quick", "Support answered at once"), ("It arrived late", "Nobody answers my mails")),
    ("use", ("Set up in two minutes", "Very easy to use"), ("The manual is useless", "It is awkward to use")),
)
_SUMMARIES = {
    -3: ("I hate it and want my money back", "Terrible, avoid it"),
    -1: ("Disappointing in the end", "Not really good"),
    1: ("Quite good in the end", "I like it, mostly"),
    3: ("I love it, simply perfect", "Excellent, buy it"),
}
_MENTIONED = 3
_TONE = 0.8
_GENEROSITY = 0.8


def _stars(taste: Taste, verdicts: np.ndarray) -> np.ndarray:
    """Return ratings, [tastes, items], for worths of [tastes, options] and verdicts of [items, aspects], 0 unmentioned.

    The weights are positive, around 1: praise never lowers a rating, criticism never raises it.
    """
    weights = np.exp(0.5 * taste["aspects"])
    stars = np.round(3 + _GENEROSITY * taste["generosity"] + 0.7 * (weights @ verdicts.T))
    return np.asarray(np.clip(stars, 1, 5))


def _alone(taste: Taste) -> Taste:
    return {slot: worths[None] for slot, worths in taste.items()}


def _item(personal: Taste, collective: Taste, noise: float, generator: np.random.Generator) -> Item:
    aspects = generator.choice(len(_ASPECTS), size=_MENTIONED, replace=False)
    tone = generator.choice([-1, 1])
    verdicts = np.where(generator.random(_MENTIONED) < _TONE, tone, -tone)
    said = np.zeros((1, len(_ASPECTS)))
    said[0, aspects] = verdicts
    known, unknown = (int(_stars(_alone(taste), said)[0, 0]) for taste in (personal, collective))
    rating = known
    if generator.random() < noise:
        rating = int(np.clip(rating + generator.choice([-1, 1]), 1, 5))
    phrases = [_ASPECTS[aspect][1 if verdict > 0 else 2] for aspect, verdict in zip(aspects, verdicts, strict=True)]
    phrases.append(_SUMMARIES[int(verdicts.sum())])
    text = ". ".join(phrase[int(generator.integers(len(phrase)))] for phrase in phrases) + "."
    return Item(text, str(rating), abs(known - rating), abs(unknown - rating), known == unknown)


def _read(texts: Sequence[str]) -> np.ndarray:
    """Return the verdicts of reviews, [reviews, aspects]; 0 for what a review does not mention."""

    def said(text: str, phrases: tuple[str, ...]) -> bool:
        return any(phrase in text for phrase in phrases)

    return np.array([[said(text, praise) - said(text, blame) for _, praise, blame in _ASPECTS] for text in texts])


def _likelihood(answers: np.ndarray, best: np.ndarray, noise: float) -> np.ndarray:
    ratings = np.arange(1, 6)[:, None, None]
    noisy = sum((np.clip(ratings + step, 1, 5) == answers + 1) * noise / 2 for step in (-1, 1))
    every = (ratings == answers + 1) * (1 - noise) + noisy
    return np.asarray(np.take_along_axis(every, best[None], axis=0)[0])


PRODUCTS = Generator(
    slots={"aspects": len(_ASPECTS), "generosity": 1},
    item=_item,
    fields=lambda item: {"text": item.source, "score": item.target},
    question=(
        "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without "
        "further explanation. review: {source}"
    ),
    metric="mae",
    reader=Reader(_read, lambda taste, verdicts: _stars(taste, verdicts).astype(int) - 1, _likelihood),
)
