"""What messages are for."""

from enum import StrEnum


class Phase(StrEnum):
    """Purpose of a message."""

    ROLL_CALL = "rollcall"
    TRAIN = "train"
    INTRODUCE = "introduce"
    PERSONALIZE = "personalize"
    EVALUATE = "evaluate"
    KEYS = "keys"
    SHARES = "shares"
    UNMASK = "unmask"


TRAINING = (Phase.TRAIN, Phase.INTRODUCE, Phase.KEYS, Phase.SHARES, Phase.UNMASK)
"""Phases whose messages stage 1 needs; the others personalise, measure, or call the roll."""
