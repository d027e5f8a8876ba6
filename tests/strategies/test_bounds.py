"""Settings outside their range are refused by name."""

import re
from dataclasses import replace

import pytest

from strategies.bounds import check_at_least, check_outer_step, check_written
from strategies.method import BackboneShape

SHAPE = BackboneShape(hidden=8, blocks=2, parameters=100)


def test_a_setting_below_its_least_value_is_named() -> None:
    check_at_least(1, items=1, layers=2)
    with pytest.raises(ValueError, match=re.escape("settings.layers=0: expected at least 1")):
        check_at_least(1, items=1, layers=0)


def test_a_servers_step_has_a_length_and_a_momentum_that_fades() -> None:
    check_outer_step(1.0, 0.0)
    with pytest.raises(ValueError, match=re.escape("settings.outer_lr=0: expected more than 0")):
        check_outer_step(0, 0.0)
    with pytest.raises(ValueError, match=re.escape("settings.outer_momentum=1.0: expected at least 0 and below 1")):
        check_outer_step(1.0, 1.0)


def test_a_written_text_leaves_half_of_the_window() -> None:
    check_written(SHAPE, profile_tokens=512)
    check_written(replace(SHAPE, positions=64), profile_tokens=32)
    with pytest.raises(ValueError, match=re.escape("settings.profile_tokens=513: expected at most 512, half of")):
        check_written(SHAPE, profile_tokens=513)
    with pytest.raises(ValueError, match=re.escape("settings.profile_tokens=33: expected at most 32")):
        check_written(replace(SHAPE, positions=64), profile_tokens=33)
