"""Checks of settings that several methods have; the messages name the key."""

from configs.exchange import ADAPTIVE, LARGEST_ADAPTIVE_STEP
from strategies.client_tools import LONGEST
from strategies.method import BackboneShape


def check_at_least(least: int, **settings: float) -> None:
    """Refuse a setting below `least`.

    Raises:
        ValueError: Names the setting.
    """
    for key, value in settings.items():
        if value < least:
            raise ValueError(f"settings.{key}={value}: expected at least {least}")


def check_outer_step(outer_lr: float, outer_momentum: float, outer_optimizer: str = "") -> None:
    """Refuse a server's step without a length, one that is far too long, or whose momentum does not fade.

    Raises:
        ValueError: Names the setting.
    """
    if not outer_lr > 0:
        raise ValueError(f"settings.outer_lr={outer_lr}: expected more than 0")
    if outer_optimizer in ADAPTIVE and outer_lr > LARGEST_ADAPTIVE_STEP:
        raise ValueError(
            f"settings.outer_lr={outer_lr:g}: {outer_optimizer} moves every number by about this much in a round; "
            f"expected at most {LARGEST_ADAPTIVE_STEP:g}, such as 0.01"
        )
    if not 0 <= outer_momentum < 1:
        raise ValueError(f"settings.outer_momentum={outer_momentum}: expected at least 0 and below 1")


def window(backbone: BackboneShape) -> int:
    """Return how many tokens of a prompt and of what follows it the backbone reads at once."""
    return min(LONGEST, backbone.positions or LONGEST)


def check_written(backbone: BackboneShape, **lengths: int) -> None:
    """Refuse texts that the backbone writes if they leave less than half of what it reads for what they continue.

    Args:
        backbone: Reads a `window` of tokens.
        lengths: The largest number of tokens of a text, by setting.

    Raises:
        ValueError: Names the setting.
    """
    most = window(backbone) // 2
    for key, tokens in lengths.items():
        if tokens > most:
            raise ValueError(
                f"settings.{key}={tokens}: expected at most {most}, half of what the backbone reads at once"
            )
