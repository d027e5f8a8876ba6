"""ROUGE's words in scripts that LaMP's tokenizer does not know."""

import pytest

from strategies.metrics.statistics import generation_statistics
from strategies.metrics.words import UnicodeTokenizer, is_seen


@pytest.mark.parametrize(
    "gold", ["東京の図書館", "Новый музей открыт", "مكتبة جديدة", "नया पुस्तकालय", "새 도서관", "Νέα βιβλιοθήκη"]
)
def test_a_perfect_answer_in_any_script_scores_1(gold: str) -> None:
    assert generation_statistics([gold], [gold], "unicode") == {"rouge1": [1.0], "rougeL": [1.0], "count": [1.0]}
    assert generation_statistics([gold], [gold])["rouge1"] == [0.0]
    assert not is_seen(gold, "latin")
    assert is_seen(gold, "unicode")


def test_scripts_without_spaces_are_compared_by_character() -> None:
    # 6 of the 9 characters of the gold, in order: precision 1, recall 6/9, F = 0.8.
    statistics = generation_statistics(["東京の図書館"], ["東京の新しい図書館"], "unicode")
    assert statistics["rouge1"] == pytest.approx([0.8])
    assert statistics["rougeL"] == pytest.approx([0.8])


def test_words_keep_their_accents_and_marks_and_lose_their_case() -> None:
    assert UnicodeTokenizer().tokenize("Čeština, हिन्दी & 3 ÉTÉ-s!") == ["čeština", "हिन्दी", "3", "été", "s"]


def test_latin_texts_score_alike() -> None:
    texts = ["The NEW library, in 2015", "a new library"]
    assert generation_statistics(texts[:1], texts[1:], "unicode") == generation_statistics(texts[:1], texts[1:])
    assert is_seen("Café au lait", "latin")
    assert not is_seen("図書館の本 2020", "latin")


def test_an_emoji_is_a_word_and_a_text_of_marks_has_none() -> None:
    assert UnicodeTokenizer().tokenize("so 😂😂 ❤️!!!") == ["so", "😂", "😂", "❤"]
    assert UnicodeTokenizer().tokenize("hel\u200blo") == ["hello"]
    assert generation_statistics(["😂"], ["😂"], "unicode")["rouge1"] == [1.0]
    assert (is_seen("😂", "latin"), is_seen("😂", "unicode")) == (False, True)
    assert not is_seen("!!!", "unicode")
