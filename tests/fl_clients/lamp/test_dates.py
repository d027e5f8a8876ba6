"""Dates of history items order a history, whatever their format; what cannot be read changes no order."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fl_clients.lamp.dates import read_date
from fl_clients.lamp.readers import find_source
from fl_clients.lamp.tasks import find_task
from tests.conftest import movie, write_lamp


@pytest.mark.parametrize(
    "written",
    [
        "2009-04-06T22:19:45Z",
        "2009-04-06 22:19:45",
        "2009-04-07T00:19:45+02:00",
        "Mon Apr 06 22:19:45 +0000 2009",
        "Mon Apr 06 15:19:45 PDT 2009",
        "Mon, 06 Apr 2009 22:19:45 GMT",
        1239056385,
        1239056385.0,
        "1239056385",
        1239056385000,
        "1239056385000000",
        "20090406221945",
        "Mon Apr 06 2009 22:19:45 GMT+0000 (Coordinated Universal Time)",
        "Tue Apr 07 2009 07:19:45 GMT+0900 (Japan Standard Time)",
        "April 6, 2009 10:19:45 PM",
    ],
)
def test_the_same_moment_in_every_format(written: Any) -> None:
    assert read_date(written) == datetime(2009, 4, 6, 22, 19, 45, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "written",
    [
        "2009",
        2009,
        "2009-01",
        "20090101",
        20090101,
        20090101.0,
        "200901",
        "1 January 2009",
        "Jan 01, 2009",
        "01 01, 2009",
    ],
)
def test_the_same_day_in_every_format(written: Any) -> None:
    assert read_date(written) == datetime(2009, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "written",
    [
        *("", "03/04/2015", "yesterday", None, True, [], float("nan"), 10**400, "2013-02-30", -2.5e40),
        *(0, -1, "0", "20091345", 99999999),
        # Which offset JST has, the format does not say.
        "Sat, 21 Mar 2015 10:00:00 JST",
    ],
)
def test_what_cannot_be_read_with_certainty_is_no_date(written: Any) -> None:
    assert read_date(written) is None


def test_morning_and_afternoon_differ() -> None:
    morning, afternoon = (read_date(f"March 21, 2015 {time}") for time in ("9:00 AM", "1:30 PM"))
    assert morning is not None
    assert afternoon == morning + 4.5 * 3600


def history(folder: Path, dates: list[Any]) -> tuple[list[str], bool]:
    question = movie("1", history=0)
    question["profile"] = [
        {"id": str(n), "tag": "comedy", "description": f"Joke {n}."} | ({} if date is ... else {"date": date})
        for n, date in enumerate(dates)
    ]
    (user,) = find_source(
        write_lamp(folder, [question], [{"id": "1", "output": "comedy"}]), find_task("movie_tagging")
    ).users()
    return [pair.item_id for pair in user.history], user.unread_dates


def test_histories_are_ordered_by_dates_or_keep_the_files_order(tmp_path: Path) -> None:
    assert history(tmp_path, [1239056385, 999999999, "2001-01-01"]) == (["2", "1", "0"], False)
    assert history(tmp_path, ["Tue Feb 01 10:00:00 +0000 2011", "Mon Jan 03 10:00:00 +0000 2011"]) == (
        ["1", "0"],
        False,
    )
    assert history(tmp_path, ["2015-01-02", "2015-01-01", "someday"]) == (["0", "1", "2"], True)
    assert history(tmp_path, ["2015-01-02", "2015-01-01", ...]) == (["0", "1", "2"], True)
    assert history(tmp_path, [..., None, ""]) == (["0", "1", "2"], False)


def test_a_date_of_an_empty_item_does_not_count(tmp_path: Path) -> None:
    question = movie("1", history=0)
    question["profile"] = [
        {"id": "a", "tag": "comedy", "description": "A.", "date": "2015"},
        {"id": "b", "tag": "comedy", "description": " ", "date": "someday"},
        {"id": "c", "tag": "comedy", "description": "C.", "date": "2014"},
    ]
    folder = write_lamp(tmp_path, json.loads(json.dumps([question])), [{"id": "1", "output": "comedy"}])
    (user,) = find_source(folder, find_task("movie_tagging")).users()
    assert ([pair.item_id for pair in user.history], user.skipped, user.unread_dates) == (["c", "a"], 1, False)
