"""Checks of settings that several methods have; the messages name the key."""

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


def check_outer_step(outer_lr: float, outer_momentum: float) -> None:
    """Refuse a server's step without a length, or whose momentum does not fade.

    Raises:
        ValueError: Names the setting.
    """
    if not outer_lr > 0:
        raise ValueError(f"settings.outer_lr={outer_lr}: expected more than 0")
    if not 0 <= outer_momentum < 1:
        raise ValueError(f"settings.outer_momentum={outer_momentum}: expected at least 0 and below 1")


def check_written(backbone: BackboneShape, **lengths: int) -> None:
    """Refuse texts that the backbone writes if they leave less than half of what it reads for what they continue.

    Args:
        backbone: Its window counts, up to `LONGEST`.
        lengths: Most tokens of a text, by setting.

    Raises:
        ValueError: Names the setting.
    """
    window = min(LONGEST, backbone.positions or LONGEST)
    for key, tokens in lengths.items():
        if tokens > window // 2:
            raise ValueError(
                f"settings.{key}={tokens}: expected at most {window // 2}, half of what the backbone reads at once"
            )
