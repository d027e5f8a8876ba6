"""Words of texts in any script, for ROUGE and for comparing texts."""

import re
import unicodedata

_LATIN = re.compile("[a-z0-9]+")
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Scripts written without spaces between words: Thai, Lao, Burmese, Khmer, Japanese and Chinese."""


class UnicodeTokenizer:
    """A tokenizer for `rouge_score`: letters, digits and marks of every script.

    In scripts without spaces, every character is a word of its own.
    """

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text, without regard to case."""
        folded = unicodedata.normalize("NFC", text).casefold()
        kept = "".join(letter if unicodedata.category(letter)[0] in "LNM" else " " for letter in folded)
        return _UNSPACED.sub(lambda match: f" {match[0]} ", kept).split()


def latin_words(text: str) -> list[str]:
    """Return the words that LaMP's ROUGE knows: Latin letters without accents, and digits."""
    return _LATIN.findall(text.lower())


def is_latin(text: str) -> bool:
    """Tell whether LaMP's ROUGE sees most of a text's letters and digits; True for a text without any."""
    seen = sum(map(len, latin_words(text)))
    return 2 * seen >= sum(letter.isalnum() for letter in text)
