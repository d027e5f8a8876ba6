"""Reads the dates of history items, in the formats that data sets and people's tools write."""

import math
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_FORMATS = (
    "%a %b %d %H:%M:%S %z %Y",  # Twitter's interface
    "%a %b %d %H:%M:%S %Y",  # ctime
    "%a %b %d %Y",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%Y-%m",
    "%Y/%m",
    "%Y",
    "%d %B %Y",
    "%d %b %Y",
    "%B %d, %Y",
    "%b %d, %Y",
    "%B %Y",
    "%b %Y",
    "%m %d, %Y",  # Amazon's reviews
)
"""Tried after ISO 8601 and e-mail's. `03/04/2015` is not among them, because it means two days."""
_ZONES = {"UTC": "+0000", "GMT": "+0000", "PDT": "-0700", "PST": "-0800", "EDT": "-0400", "EST": "-0500"}
_LAST_YEAR = 9999


def read_date(value: Any) -> float | None:
    """Return a date as seconds since 1970, or None if it cannot be read with certainty.

    Args:
        value: A text in ISO 8601 or another format without ambiguity, or a number: a year, or seconds, milliseconds,
            microseconds or nanoseconds since 1970. A time without a zone is taken as UTC.
    """
    if isinstance(value, str):
        text = " ".join(value.split())
        try:
            number = float(text)
        except ValueError:
            return _read_text(text)
        if len(text) == len("20150321") and text.isdigit():
            return _read_text(text)
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        number = float(value)
    else:
        return None
    if not math.isfinite(number):
        return None
    if 0 < number <= _LAST_YEAR:
        return _read_text(f"{number:04.0f}") if number.is_integer() else None
    for factor in (1, 1e3, 1e6, 1e9):
        # Seconds reach 1e11 in the year 5138; as milliseconds that is 1973.
        if abs(number) < 1e11 * factor:
            return number / factor
    return None


def _read_text(text: str) -> float | None:
    for zone, offset in _ZONES.items():
        text = text.replace(f" {zone}", f" {offset}")
    for read in (datetime.fromisoformat, parsedate_to_datetime, *(_reader(form) for form in _FORMATS)):
        try:
            date = read(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return None


def _reader(form: str) -> Callable[[str], datetime]:
    return lambda text: datetime.strptime(text, form)
