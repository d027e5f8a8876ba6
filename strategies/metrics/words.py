"""Words of texts in any script, for ROUGE and for comparing texts."""

import re
import unicodedata
from typing import Literal

_LATIN = re.compile("[a-z0-9]+")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Scripts written without spaces between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese."""


_SELECTORS = frozenset(map(chr, range(0xFE00, 0xFE10)))
"""Variation selectors, such as the one that makes a heart red."""


class UnicodeTokenizer:
    """A tokenizer for `rouge_score`: letters, digits and marks of every script, and symbols such as emoji.

    In scripts without spaces, every character is a word of its own, and so is every symbol.
    """

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text, without regard to case."""
        folded = unicodedata.normalize("NFC", text).casefold()
        kept = "".join(map(_spaced, folded))
        return _UNSPACED.sub(lambda match: f" {match[0]} ", kept).split()


def _spaced(letter: str) -> str:
    category = unicodedata.category(letter)
    if category == "Cf" or letter in _SELECTORS:  # joins or styles its neighbours, and shows nothing
        return ""
    return letter if category[0] in "LNM" else f" {letter} " if category == "So" else " "


def latin_words(text: str) -> list[str]:
    """Return the words that LaMP's ROUGE knows: Latin letters without accents, and digits."""
    return _LATIN.findall(text.lower())


def is_seen(text: str, words: Literal["latin", "unicode"]) -> bool:
    """Tell whether ROUGE finds words in a text, and in `latin` most of its letters and digits.

    Args:
        text: An answer or a gold.
        words: What counts as a word (`evaluate.words`).
    """
    if words == "unicode":
        return bool(UnicodeTokenizer().tokenize(text))
    seen = sum(map(len, latin_words(text)))
    return seen > 0 and 2 * seen >= sum(letter.isalnum() for letter in text)
