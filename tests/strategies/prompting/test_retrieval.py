"""BM25 retrieval: scores by hand, and the library's own ranking."""

import math

import bm25s
import numpy as np
import pytest

from fl_clients.lamp.user import Pair
from strategies.prompting.retrieval import best_matches, match_scores
from strategies.prompting.wording import spread_items

TEXTS = ["a heist goes wrong in paris", "love story in paris", "space war"]


def history(*texts: str) -> list[Pair]:
    return [Pair(str(place), text, f"tag {place}") for place, text in enumerate(texts)]


def test_scores_equal_the_formula() -> None:
    # Words of one letter are no terms. N = 3, lengths 5, 4 and 2, so the mean is 11/3.
    def score(count_of_texts: int, length: int) -> float:
        idf = math.log(1 + (3 - count_of_texts + 0.5) / (count_of_texts + 0.5))
        return idf / (1 + 1.5 * (1 - 0.75 + 0.75 * length / (11 / 3)))

    expected = [score(1, 5) + score(2, 5), score(2, 4), 0.0]
    assert match_scores(TEXTS, "Paris heist, unheard") == pytest.approx(expected, rel=1e-6)


def test_order_is_that_of_the_library() -> None:
    words = bm25s.tokenize(TEXTS, stopwords=None, show_progress=False)
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index(words, show_progress=False)
    question = bm25s.tokenize("story of a heist in paris", stopwords=None, show_progress=False)
    places, _ = index.retrieve(question, k=2, show_progress=False)
    found = best_matches(history(*TEXTS), "story of a heist in paris", 2)
    assert [item.item_id for item in found] == [str(place) for place in places[0]]


def test_of_equal_items_the_latest_comes_first() -> None:
    found = best_matches(history("space war", "space war", "love"), "space", 2)
    assert [item.item_id for item in found] == ["1", "0"]


@pytest.mark.parametrize("texts", [[], [""], ["a b", "!"], ["love"]])
def test_histories_without_a_match_still_give_their_latest_items(texts: list[str]) -> None:
    found = best_matches(history(*texts), "war", 1)
    assert [item.item_id for item in found] == ([str(len(texts) - 1)] if texts else [])


@pytest.mark.parametrize("question", ["", "!", "a", "I ❤ U"])
def test_a_question_without_a_word_matches_nothing(question: str) -> None:
    assert match_scores(TEXTS, question).tolist() == [0.0] * len(TEXTS)
    assert best_matches(history(*TEXTS), question, 1)[0].item_id == str(len(TEXTS) - 1)


def test_k_above_the_history_gives_all_of_it() -> None:
    assert len(best_matches(history(*TEXTS), "war", 9)) == 3
    assert best_matches(history(*TEXTS), "war", 0) == []
    assert np.array_equal(match_scores([], "war"), [])


def test_spread_items_cover_the_history_and_end_with_its_last() -> None:
    items = history(*"abcdefgh")
    assert [item.source for item in spread_items(items, 3)] == ["b", "e", "h"]
    assert spread_items(items, 20) == items


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    best_matches(history(*TEXTS), "war", 1)
    assert not caplog.records
