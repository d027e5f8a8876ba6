"""Progress of a run from its events: plain lines, and bars on a terminal."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simulations.display.progress import Follower

EVENTS: list[dict[str, Any]] = [
    {"time": 100.0, "event": "phase", "phase": "train", "round": 1, "total": 2},
    {"time": 103.0, "event": "client", "phase": "train", "user": 0, "failed": False, "bytes": 0},
    {"time": 106.0, "event": "client", "phase": "train", "user": 1, "failed": False, "bytes": 0},
    {"time": 110.0, "event": "round", "round": 1, "rounds": 4, "loss": 2.5, "bytes": 1_500_000},
    {"time": 110.0, "event": "phase", "phase": "train", "round": 2, "total": 2},
    {"time": 120.0, "event": "note", "text": "user 1 failed; retrying"},
    {"time": 130.0, "event": "round", "round": 2, "rounds": 4, "loss": 2.0, "bytes": 3_000_000, "collective.mae": 0.5},
    {"time": 130.0, "event": "phase", "phase": "personalize", "round": 4, "total": 4},
    {"time": 135.0, "event": "client", "phase": "personalize", "user": 2, "failed": False, "bytes": 3_100_000},
]


def write(folder: Path, events: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "events.jsonl").write_text(lines + '{"time": 140.0, "eve', encoding="utf-8")


def test_lines_show_rounds_quality_bytes_and_seconds_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, EVENTS)
    with Follower(Console(file=io.StringIO()), quiet=False) as follower:
        follower(tmp_path)
        follower(tmp_path)
    # Round 1 took 10 s, so three more take 30 s; two rounds took 30 s, so two more take 30 s; one client took 5 s.
    assert capsys.readouterr().out.splitlines() == [
        "round 1 of 4: loss 2.500, 1.50 MB, 30 s left",
        "user 1 failed; retrying",
        "round 2 of 4: loss 2.000, collective mae 0.500, 3.00 MB, 30 s left",
        "personalising: 1 of 4 clients, 3.10 MB, 15 s left",
    ]


def test_resumed_run_does_not_repeat_earlier_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, EVENTS)
    with Follower(Console(file=io.StringIO()), quiet=False, since=125.0) as follower:
        follower(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "round 2 of 4: loss 2.000, collective mae 0.500, 3.00 MB, 30 s left",
        "personalising: 1 of 4 clients, 3.10 MB, 15 s left",
    ]


def test_bars_show_the_same_on_a_terminal(tmp_path: Path) -> None:
    write(tmp_path, EVENTS)
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Follower(screen, quiet=False) as follower:
        follower(tmp_path)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    for words in (
        "rounds",
        "2/4",
        "collective mae 0.500",
        "personalising",
        "1/4",
        "3.10 MB, 15 s left",
        "retrying",
    ):
        assert words in shown


def test_time_between_a_crash_and_the_resumption_is_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = [
        {"time": 5000.0, "event": "resumed"},
        {"time": 5010.0, "event": "phase", "phase": "train", "round": 2, "total": 2},
        {"time": 5020.0, "event": "round", "round": 2, "rounds": 4, "loss": 2.0, "bytes": 3_000_000},
    ]
    write(tmp_path, EVENTS[:5] + again)
    with Follower(Console(file=io.StringIO()), quiet=False) as follower:
        follower(tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == "round 2 of 4: loss 2.000, 3.00 MB, 20 s left"


def test_seconds_left_follow_what_clients_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Four side by side, 20 s each. The first wave ends together, and half of it had been done before an interruption.
    phase = {"time": 0.0, "event": "phase", "phase": "evaluate", "round": 0, "rounds": 4, "total": 12, "at_once": 4}
    times = (0.1, 0.1, 20.0, 20.1, 20.2, 20.3)
    clients = [
        {"time": time, "event": "client", "phase": "evaluate", "user": user, "bytes": 0, "seconds": 20.0}
        for user, time in enumerate(times)
    ]
    write(tmp_path, [phase, *clients])
    with Follower(Console(file=io.StringIO()), quiet=False) as follower:
        follower(tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "bare backbone: 3 of 12 clients, 0 B, 45 s left",
        "bare backbone: 6 of 12 clients, 0 B, 30 s left",
    ]


def test_bar_of_the_rounds_moves_with_every_client(tmp_path: Path) -> None:
    phase = {"time": 0.0, "event": "phase", "phase": "train", "round": 1, "rounds": 4, "total": 2, "at_once": 1}
    client = {"time": 5.0, "event": "client", "phase": "train", "user": 0, "bytes": 0, "seconds": 5.0}
    write(tmp_path, [phase, client])
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Follower(screen, quiet=False) as follower:
        follower(tmp_path)
    # Half a round took 5 s, and three and a half are left.
    assert "0/4" in screen.file.getvalue()  # type: ignore[attr-defined]
    assert "35 s left" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_quiet_shows_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, EVENTS)
    with Follower(Console(file=io.StringIO()), quiet=True) as follower:
        follower(tmp_path)
    assert capsys.readouterr().out == ""


def test_second_run_starts_with_fresh_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opening = [
        {"time": 900.0, "event": "phase", "phase": "train", "round": 0, "total": 2},
        {"time": 940.0, "event": "round", "round": 0, "rounds": 4, "loss": 3.0, "bytes": 700},
    ]
    for name, events in (("first", EVENTS), ("second", opening)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, events)
    with Follower(Console(file=io.StringIO()), quiet=False) as follower:
        follower(tmp_path / "first")
        follower(tmp_path / "second")
    # The opening took 40 s, and four rounds remain.
    assert capsys.readouterr().out.splitlines()[-1] == "round 0 of 4: loss 3.000, 700 B, 160 s left"


def test_a_bar_never_counts_rounds_below_none(tmp_path: Path) -> None:
    opening = [{"time": 100.0, "event": "phase", "phase": "train", "round": 0, "rounds": 8, "total": 2}]
    write(tmp_path, opening)
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Follower(screen, quiet=False) as follower:
        follower(tmp_path)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "0/8" in shown
    assert "-1/8" not in shown
