"""Questions of general knowledge and short plain texts, made here: what needs no network and is no user's."""

import random
from itertools import pairwise
from typing import Any

KNOWLEDGE = "knowledge"
"""Name of the task that the questions make."""

_CAPITALS = (
    *(("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Germany", "Berlin"), ("Japan", "Tokyo")),
    *(("Russia", "Moscow"), ("China", "Beijing"), ("Egypt", "Cairo"), ("Greece", "Athens"), ("Cuba", "Havana")),
    *(("Poland", "Warsaw"), ("Austria", "Vienna"), ("Portugal", "Lisbon"), ("Ireland", "Dublin"), ("Peru", "Lima")),
    *(("Norway", "Oslo"), ("Sweden", "Stockholm"), ("Hungary", "Budapest"), ("Kenya", "Nairobi"), ("Iraq", "Baghdad")),
)
_OPPOSITES = (
    *(("hot", "cold"), ("big", "small"), ("up", "down"), ("early", "late"), ("open", "closed"), ("hard", "soft")),
    *(("wet", "dry"), ("fast", "slow"), ("rich", "poor"), ("full", "empty"), ("light", "dark"), ("old", "young")),
    *(("high", "low"), ("left", "right"), ("thick", "thin"), ("strong", "weak"), ("first", "last"), ("near", "far")),
)
_KINDS = (
    *(("rose", "flower"), ("salmon", "fish"), ("oak", "tree"), ("hammer", "tool"), ("violin", "musical instrument")),
    *(("sparrow", "bird"), ("banana", "fruit"), ("carrot", "vegetable"), ("iron", "metal"), ("ant", "insect")),
    *(("chair", "piece of furniture"), ("football", "sport"), ("blue", "color"), ("shirt", "piece of clothing")),
    *(("Mars", "planet"), ("Monday", "day"), ("July", "month"), ("seven", "number"), ("bus", "vehicle")),
)
_ORDERS = (
    ("day", ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")),
    ("month", ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October")),
    ("number", ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")),
)
_OPTIONS = 4

PASSAGES = (
    "Water boils when it is hot enough. Steam rises from the surface, and small bubbles form at the bottom of the "
    "pot before they float to the top.",
    "The farmer got up before the sun. He fed the cows, opened the gate, and walked along the fence to see "
    "whether the storm had broken it during the night.",
    "A library lends books to people. Readers choose what they like from the shelves, take it to the desk, and "
    "bring it back a few weeks later so that others can read it.",
    "Rain falls from clouds. It fills the rivers, which carry the water to the sea, where the sun warms it until "
    "it rises into the air again.",
    "The train was late that morning. People stood on the platform with their bags, looked at the clock, and "
    "asked one another when it would finally come.",
    "Bees visit flowers to collect nectar. They carry pollen from one flower to the next, and without them many "
    "plants would not have any fruit.",
    "My grandmother baked bread every Saturday. She mixed flour, water, salt and yeast, let the dough rest under "
    "a cloth, and put it into the oven an hour later.",
    "A bridge has to carry its own weight. Engineers work out how much steel it needs, and then they add more, "
    "because wind and heavy trucks push and pull at it.",
    "The children built a house of snow. When the days became warmer, the walls grew thin, the roof fell in, and "
    "by the end of the week only a puddle was left.",
    "Money is a promise. People accept it because they believe that others will accept it too, and when they stop "
    "believing that, prices rise very quickly.",
    "The doctor listened to his heart. She asked how long he had felt tired, wrote a few words in her notes, and "
    "told him to come back if it got worse.",
    "Glass is made from sand. It is heated until it melts, shaped while it is soft, and cooled slowly so that it "
    "does not break.",
    "Birds fly south in autumn. Some of them cross whole seas without a rest, and in spring they find the way "
    "back to the tree in which they were born.",
    "The teacher wrote a sum on the board. Two pupils raised their hands at once, gave different answers, and "
    "argued until a third one showed that both were wrong.",
    "Ships were once made of wood. It took hundreds of trees to build a large one, and the forests near many "
    "harbors disappeared within a few years.",
    "A good map leaves things out. It shows the roads and the rivers, but not every tree and every stone, or it "
    "would be impossible to read.",
)
"""The sentences after the first are scored, given the first."""


def knowledge() -> list[dict[str, Any]]:
    """Return the questions, always the same: `question`, four `choices`, and the right one's place, `gold`."""
    chance = random.Random(0)
    items = []
    for start, pairs in (
        ("The capital of {} is", _CAPITALS),
        ("The opposite of {} is", _OPPOSITES),
        ("What kind of thing is this: {}? It is a kind of", _KINDS),
    ):
        answers = [answer for _, answer in pairs]
        items += [_item(start.format(about), answer, answers, chance) for about, answer in pairs]
    for name, order in _ORDERS:
        start = f"The {name} after {{}} is"
        items += [
            _item(start.format(this), following, list(order), chance, this) for this, following in pairwise(order)
        ]
    return items


def _item(question: str, answer: str, answers: list[str], chance: random.Random, not_this: str = "") -> dict[str, Any]:
    others = chance.sample([other for other in answers if other not in (answer, not_this)], _OPTIONS - 1)
    choices = [answer, *others]
    chance.shuffle(choices)
    return {"question": question, "choices": choices, "gold": choices.index(answer)}
