"""Synthetic films and articles with three themes each: the label is the theme that the user values most.

With probability `noise` the label is one of the other two themes.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fl_clients.lamp.synthetic.taste import Generator, Item, Reader, Taste
from fl_clients.lamp.tasks import MOVIE_TAGS, NEWS_CATEGORIES

_MOVIES: dict[str, tuple[str, ...]] = {
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
_NEWS: dict[str, tuple[str, ...]] = {
    "women": ("equal pay for women", "a girls' school", "the first woman in the post"),
    "religion": ("a bishop's sermon", "pilgrims on their way", "a dispute about a mosque"),
    "politics": ("a vote in parliament", "a candidate's campaign", "a minister who resigned"),
    "style & beauty": ("a new lipstick", "a fashion show", "this season's dresses"),
    "entertainment": ("a film premiere", "a pop star's tour", "a talk show host"),
    "culture & arts": ("a museum's new wing", "a forgotten painter", "a string quartet"),
    "sports": ("a late winning goal", "a marathon runner", "the coach of the team"),
    "science & technology": ("a telescope in orbit", "a chip maker's lab", "a new vaccine technique"),
    "travel": ("a cheap flight", "a hotel on the coast", "a night train through the Alps"),
    "business": ("falling share prices", "a merger of two banks", "quarterly earnings"),
    "crime": ("a burglary at night", "a police manhunt", "a fraud trial"),
    "education": ("overcrowded classrooms", "university fees", "a teachers' strike"),
    "healthy living": ("eight hours of sleep", "a breathing exercise", "walking to work"),
    "parents": ("a toddler's tantrums", "parental leave", "a new baby in the house"),
    "food & drink": ("a bakery's sourdough", "a vineyard's harvest", "a recipe for soup"),
}
_FILM_FRAMES = (
    "A film with {}, {} and {}.",
    "This one brings {}, then {}, and also {}.",
    "Expect {}, {}, and {}.",
    "We get {} together with {} and {}.",
)
_NEWS_FRAMES = (
    "An article on {}, {} and {}.",
    "The report links {} with {} and with {}.",
    "First {}, then {}, and in the end {}.",
    "It tells of {}, of {} and of {}.",
)


def _labelled(
    labels: Sequence[str], phrases: dict[str, tuple[str, ...]], frames: Sequence[str]
) -> Callable[[Taste, Taste, float, np.random.Generator], Item]:
    def item(personal: Taste, collective: Taste, noise: float, generator: np.random.Generator) -> Item:
        themes = generator.choice(len(labels), size=3, replace=False)
        known = int(themes[np.argmax(personal["themes"][themes])])
        unknown = int(themes[np.argmax(collective["themes"][themes])])
        label = known
        if generator.random() < noise:
            label = int(generator.choice(themes[themes != label]))
        chosen = [phrases[labels[theme]][generator.integers(3)] for theme in themes]
        text = frames[int(generator.integers(len(frames)))].format(*chosen)
        return Item(text, labels[label], float(known == label), float(unknown == label), known == unknown)

    return item


def _reader(labels: Sequence[str], phrases: dict[str, tuple[str, ...]]) -> Reader:
    def read(texts: Sequence[str]) -> np.ndarray:
        return np.array(
            [[i for i, name in enumerate(labels) if any(part in text for part in phrases[name])] for text in texts]
        )

    def best(taste: Taste, themes: np.ndarray) -> np.ndarray:
        chosen = taste["themes"][:, themes].argmax(axis=-1)
        return np.asarray(np.take_along_axis(themes[None], chosen[..., None], axis=-1)[..., 0])

    def likelihood(answers: np.ndarray, best: np.ndarray, noise: float) -> np.ndarray:
        return np.where(answers == best, 1 - noise, noise / 2)

    return Reader(read, best, likelihood)


def _question(kind: str, plural: str, thing: str, labels: Sequence[str], field: str) -> str:
    return (
        f"Which {kind} does this {thing} relate to among the following {plural}? Just answer with the {kind} name "
        f"without further explanation. {plural}: [{', '.join(labels)}] {field}: {{source}}"
    )


MOVIES = Generator(
    slots={"themes": len(MOVIE_TAGS)},
    item=_labelled(MOVIE_TAGS, _MOVIES, _FILM_FRAMES),
    fields=lambda item: {"description": item.source, "tag": item.target},
    question=_question("tag", "tags", "movie", MOVIE_TAGS, "description"),
    metric="accuracy",
    reader=_reader(MOVIE_TAGS, _MOVIES),
)
NEWS = Generator(
    slots={"themes": len(NEWS_CATEGORIES)},
    item=_labelled(NEWS_CATEGORIES, _NEWS, _NEWS_FRAMES),
    fields=lambda item: {"text": item.source, "title": item.source.split(",")[0], "category": item.target},
    question=_question("category", "categories", "article", NEWS_CATEGORIES, "article"),
    metric="accuracy",
    reader=_reader(NEWS_CATEGORIES, _NEWS),
)
