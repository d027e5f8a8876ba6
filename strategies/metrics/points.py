"""What a user's questions are answered with: the tensors of a method, or no model at all."""

from enum import StrEnum


class EvaluationPoint(StrEnum):
    """The tensors with which a user's questions are answered."""

    BASE = "base"
    """The bare backbone."""
    COLLECTIVE = "collective"
    """The shared tensors (stage 1)."""
    PERSONALISED = "personalised"
    """The shared and the user's private tensors (stage 2)."""


class Baseline(StrEnum):
    """Answers that need no model; a method that scores below them has learned nothing useful."""

    COPY = "copy"
    """The question's text."""
    FIRST_SENTENCE = "first_sentence"
    """Its first sentence: news articles and abstracts often begin with what their title says."""
    USUAL = "usual"
    """What the user answered most often before, of equally frequent answers the latest; the median of ratings."""
