"""Synthetic authors of headlines, titles and tweets: the content is given, the style is the author's.

In every slot of the style (opening, favourite words, ending, marks) an author chooses the option it values most; with
probability `noise` one slot gets another option. ROUGE only compares words, so capitals and marks are planted but not
scored.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fl_clients.lamp.synthetic.taste import Generator, Item, Taste
from strategies.metrics.statistics import generation_statistics

Style = dict[str, int]
"""The chosen option by slot."""
Facts = dict[str, str]

_SUBJECTS = (
    "the mayor",
    "a judge",
    "the school board",
    "a local bakery",
    "the airline",
    "the senator",
    "a young inventor",
    "the museum",
    "the football club",
    "the union",
    "a farmer",
    "the hospital",
)
_OBJECTS = (
    "the old harbour",
    "a wind farm",
    "the new stadium",
    "the city library",
    "a railway line",
    "the flood wall",
    "the night market",
    "a solar park",
    "the toll bridge",
    "the concert hall",
    "a riverside park",
    "the bus depot",
)
_EVENTS = (
    ("has decided to close", ("closes", "shuts down", "axes")),
    ("has announced the purchase of", ("buys", "snaps up", "grabs")),
    ("has spoken against", ("opposes", "slams", "rips")),
    ("has spoken in favour of", ("backs", "cheers", "hails")),
    ("wants to rebuild", ("rebuilds", "revives", "saves")),
    ("has asked for an inspection of", ("checks", "probes", "grills")),
)
_PLACES = ("Leeds", "Porto", "Dallas", "Quebec", "Oslo", "Perth", "Kyoto", "Lima")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_OPENINGS = ("Breaking:", "Exclusive:", "Opinion:", "Revealed:", "Just in:")
_ENDINGS = ("", "and here is why", "in {place}", "on {day}")


def _headline(facts: Facts, style: Style) -> str:
    verb = dict(_EVENTS)[facts["event"]][style["verb"]]
    words = f"{_OPENINGS[style['opening']]} {facts['subject']} {verb} {facts['object']} {_ENDINGS[style['ending']]}"
    text = words.format(**facts).strip()
    return text.title() if style["capitals"] else text[:1].upper() + text[1:]


_TOPICS = (
    "protein folding",
    "machine translation",
    "traffic forecasting",
    "image retrieval",
    "graph colouring",
    "speech recognition",
    "fraud detection",
    "drug discovery",
    "robot grasping",
    "question answering",
    "cache replacement",
    "weather prediction",
)
_TECHNIQUES = (
    "kernel methods",
    "random forests",
    "message passing",
    "integer programming",
    "contrastive learning",
    "particle filters",
    "spectral clustering",
    "beam search",
    "dropout",
    "matrix sketching",
)
_SETTINGS = ("at scale", "on a budget", "in real time", "without labels", "with few examples", "under noise")
_DATA = ("three public benchmarks", "simulated data", "a year of logs", "hospital records", "twelve languages")
_FINDINGS = ("clear gains", "a tenfold speed-up", "mixed results", "robustness to noise", "lower memory use")
_TITLE_OPENINGS = ("Towards", "Rethinking", "Revisiting", "On the Use of", "A Closer Look at")
_CONNECTORS = ("for", "in", "and", "as a Tool for")
_TITLE_ENDINGS = ("", ": An Empirical Study", ": Theory and Practice", ": Lessons Learned")


def _title(facts: Facts, style: Style) -> str:
    text = f"{facts['technique']} {_CONNECTORS[style['connector']]} {facts['topic']} {facts['setting']}"
    text = text.title() if style["capitals"] else text
    return f"{_TITLE_OPENINGS[style['opening']]} {text}{_TITLE_ENDINGS[style['ending']]}"


_DOINGS = (
    ("I am on my way to", "off to"),
    ("I have just left", "out of"),
    ("I have returned to", "bk at"),
    ("I am sitting in", "in"),
)
_SPOTS = (
    "the beach",
    "the dentist",
    "the sauna",
    "grandma's house",
    "the office",
    "the cinema",
    "the airport",
    "math class",
    "the stadium",
    "the library",
)
_FRIENDS = ("Maria", "Jonas", "Priya", "Kevin", "Aisha", "Lucas", "Wendy", "Oscar", "Naomi", "Pablo")
_MOODS = ("happy", "tired", "hungry", "excited", "bored", "nervous", "lonely", "proud", "angry", "lucky")
# Words that `plain_form` leaves out, so that stage 2 learns to add them back.
_TWEET_OPENINGS = ("omg", "ugh", "yay", "hey", "wow")
_DEGREES = ("so", "too", "way", "v")
_TWEET_CLOSINGS = ("lol", "xx", "tbh", "smh", "idk")
_MARKS = ("!!!", "...", " :)", "")


def _tweet(facts: Facts, style: Style) -> str:
    doing = dict(_DOINGS)[facts["doing"]]
    text = f"{_TWEET_OPENINGS[style['opening']]} {doing} {facts['spot']} w {facts['friend']}, am "
    text += f"{_DEGREES[style['degree']]} {facts['mood']} {_TWEET_CLOSINGS[style['closing']]}{_MARKS[style['marks']]}"
    return text.lower() if style["capitals"] else text


def _written(
    facts: Mapping[str, Sequence[str]], source: str, write: Callable[[Facts, Style], str], slots: Mapping[str, int]
) -> Callable[[Taste, Taste, float, np.random.Generator], Item]:
    def item(personal: Taste, collective: Taste, noise: float, generator: np.random.Generator) -> Item:
        drawn = {name: str(options[int(generator.integers(len(options)))]) for name, options in facts.items()}
        known, unknown = ({slot: int(np.argmax(taste[slot])) for slot in slots} for taste in (personal, collective))
        style = dict(known)
        if generator.random() < noise:
            slot = list(slots)[int(generator.integers(len(slots)))]
            style[slot] = (style[slot] + int(generator.integers(1, slots[slot]))) % slots[slot]
        text = source.format(**drawn)
        target = write(drawn, style)

        def score(guess: Style) -> float:
            return generation_statistics([write(drawn, guess)], [target])["rouge1"][0]

        return Item(text[:1].upper() + text[1:], target, score(known), score(unknown), known == unknown)

    return item


_HEADLINE_SLOTS = {"opening": len(_OPENINGS), "verb": 3, "ending": len(_ENDINGS), "capitals": 2}
HEADLINES = Generator(
    slots=_HEADLINE_SLOTS,
    item=_written(
        {
            "subject": _SUBJECTS,
            "event": [event for event, _ in _EVENTS],
            "object": _OBJECTS,
            "place": _PLACES,
            "day": _DAYS,
        },
        "{subject} {event} {object}. The news spread quickly in {place} on {day}.",
        _headline,
        _HEADLINE_SLOTS,
    ),
    fields=lambda item: {"text": item.source, "title": item.target},
    question="Generate a headline for the following article: {source}",
    metric="rouge1",
)
_TITLE_SLOTS = {"opening": len(_TITLE_OPENINGS), "connector": len(_CONNECTORS), "ending": len(_TITLE_ENDINGS)}
_TITLE_SLOTS |= {"capitals": 2}
TITLES = Generator(
    slots=_TITLE_SLOTS,
    item=_written(
        {"topic": _TOPICS, "setting": _SETTINGS, "technique": _TECHNIQUES, "data": _DATA, "finding": _FINDINGS},
        "we study {topic} {setting}. Our approach builds on {technique}. Experiments on {data} show {finding}.",
        _title,
        _TITLE_SLOTS,
    ),
    fields=lambda item: {"abstract": item.source, "title": item.target},
    question="Generate a title for the following abstract of a paper: {source}",
    metric="rouge1",
)
_TWEET_SLOTS = {"opening": len(_TWEET_OPENINGS), "degree": len(_DEGREES), "closing": len(_TWEET_CLOSINGS)}
_TWEET_SLOTS |= {"marks": len(_MARKS), "capitals": 2}
TWEETS = Generator(
    slots=_TWEET_SLOTS,
    item=_written(
        {"doing": [doing for doing, _ in _DOINGS], "spot": _SPOTS, "friend": _FRIENDS, "mood": _MOODS},
        "{doing} {spot} with {friend}, and I feel {mood}.",
        _tweet,
        _TWEET_SLOTS,
    ),
    fields=lambda item: {"text": item.target},
    question="Paraphrase the following tweet without any explanation before or after it: {source}",
    metric="rouge1",
)
