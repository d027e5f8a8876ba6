"""Reads the dates of history items, in the formats that data sets and people's tools write."""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_FORMATS = (
    "%a %b %d %H:%M:%S %z %Y",  # Twitter's interface
    "%a %b %d %H:%M:%S %Y",  # ctime
    "%a %b %d %Y",
    "%a %b %d %Y %H:%M:%S GMT%z",  # JavaScript
    "%Y-%m-%d %I:%M:%S %p",
    "%Y-%m-%d %I:%M %p",
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
    "%B %d, %Y %I:%M:%S %p",
    "%B %d, %Y %I:%M %p",
    "%b %d, %Y %I:%M:%S %p",
    "%b %d, %Y %I:%M %p",
    "%B %d, %Y %H:%M:%S",
    "%B %d, %Y %H:%M",
    "%B %Y",
    "%b %Y",
    "%m %d, %Y",  # Amazon's reviews
)
"""Tried after ISO 8601 and e-mail's. `03/04/2015` is not among them, because it means two days."""
_ZONES = {"UTC": "+0000", "GMT": "+0000", "PDT": "-0700", "PST": "-0800", "EDT": "-0400", "EST": "-0500"}
_ZONE = re.compile(rf"\b({'|'.join(_ZONES)})\b(?![+-])")
_MAIL = re.compile(r"([A-Z][a-z]{2}, )?\d{1,2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}(:\d{2})?( [+-]\d{4}| [CM][DS]T)?")
"""RFC 2822's form; its other zones have become offsets by then."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE]\+?\d+)?")
_CALENDAR = {6: "%Y%m", 8: "%Y%m%d", 14: "%Y%m%d%H%M%S"}
"""By number of digits. As seconds or milliseconds, such numbers would be of the 1970s or after 2280."""
_LAST_YEAR = 9999


def is_date(value: Any) -> bool:
    """Tell whether a field says anything: null, NaN, blanks, 0 and -1 are how tools write that there is no date."""
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and value not in (0, -1) and value == value  # noqa: PLR0124: NaN differs from itself


def read_date(value: Any) -> float | None:
    """Return a date as seconds since 1970, or None if it cannot be read with certainty.

    Args:
        value: A text in ISO 8601 or another format without ambiguity, or a number: a year, a date in 6, 8 or 14 digits,
            or seconds, milliseconds, microseconds or nanoseconds since 1970. A time without a zone is taken as UTC.
    """
    if not is_date(value) or isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = " ".join(value.split()) if isinstance(value, str) else f"{value}"
    if not _NUMBER.fullmatch(text):
        return _read_text(text)
    whole = text.removesuffix(".0")
    if whole.isdecimal() and (form := _CALENDAR.get(len(whole))):
        return _first(whole, [_reader(form)])
    number = float(text)
    if not math.isfinite(number) or number in (0, -1):
        return None
    if 0 < number <= _LAST_YEAR:
        return _read_text(f"{number:04.0f}") if number.is_integer() else None
    for factor in (1, 1e3, 1e6, 1e9):
        # Seconds reach 1e11 in the year 5138; as milliseconds that is 1973.
        if abs(number) < 1e11 * factor:
            return number / factor
    return None


def _read_text(text: str) -> float | None:
    # Such as JavaScript's `GMT+0900 (Japan Standard Time)`.
    text = re.sub(r"(?<=[+-]\d{4}) \([^)]*\)$", "", text)
    text = _ZONE.sub(lambda zone: _ZONES[zone[0]], text)
    mail = [parsedate_to_datetime] if _MAIL.fullmatch(text) else []
    return _first(text, [datetime.fromisoformat, *mail, *map(_reader, _FORMATS)])


def _first(text: str, readers: list[Callable[[str], datetime]]) -> float | None:
    for read in readers:
        try:
            date = read(text)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return None


def _reader(form: str) -> Callable[[str], datetime]:
    return lambda text: datetime.strptime(text, form)
