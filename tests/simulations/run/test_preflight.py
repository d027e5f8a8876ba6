"""What is refused before any work, because it could not give what was asked for."""

import pytest

from configs.errors import InputError
from simulations.run.preflight import build_method
from strategies.method import BackboneShape
from tests.conftest import tiny_config

SHAPE = BackboneShape(hidden=16, blocks=4, parameters=0)


def test_questions_need_room_beside_the_longest_answer() -> None:
    # An answer of tweets has up to 56 tokens, and a question of 2 would be no question.
    words = ("task=tweet_paraphrase", "personal.max_tokens=48")
    with pytest.raises(InputError, match=r"personal\.max_tokens=48: expected at least 72, since an answer of tweet_pa"):
        build_method(tiny_config(*words), SHAPE)
    build_method(tiny_config(words[0], "personal.max_tokens=72"), SHAPE)
    build_method(tiny_config("personal.max_tokens=48"), SHAPE)
