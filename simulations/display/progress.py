"""Progress of a run from `events.jsonl`: bars on a terminal, plain lines elsewhere."""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from simulations.display.output import printable
from simulations.display.tables import human_bytes
from simulations.display.trackers import TrackedRun, check_tracker

_TITLES = {
    "train": "rounds",
    "introduce": "introducing",
    "keys": "exchanging keys",
    "shares": "sharing secrets",
    "unmask": "taking masks off",
    "personalize": "personalising",
    "evaluate": "evaluating",
    "rollcall": "roll call",
}


class _View(Protocol):
    def begin(self) -> None: ...

    def show(self, event: dict[str, Any]) -> None: ...


class Follower:
    """Reads new events of a run and shows them."""

    def __init__(self, console: Console, quiet: bool, trackers: Sequence[str] = (), since: float = 0.0) -> None:
        """Choose bars for a terminal, lines elsewhere, nothing if quiet; `trackers` get the events too.

        Events before `since` (seconds since 1970) print no lines, since a resumed run has shown them before.

        Raises:
            InputError: A tracker is unknown or not installed.
        """
        for name in trackers:
            check_tracker(name)
        self._trackers = trackers
        self._live: list[str] = []
        self._tracked: dict[str, TrackedRun] = {}
        self._path: Path | None = None
        self._read = 0
        self._bars = None if quiet or not console.is_terminal else _Bars(console)
        self._view: _View | None = None if quiet else self._bars or _Lines(since)

    def __enter__(self) -> "Follower":
        """Start drawing."""
        if self._bars:
            self._bars.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing, and close the trackers of a run that was interrupted."""
        self._close_trackers()
        if self._bars:
            self._bars.progress.stop()

    def __call__(self, folder: Path) -> None:
        """Show the events since the last call; a half-written last line waits for the next call."""
        path = folder / "events.jsonl"
        if (self._view is None and not self._trackers) or not path.is_file():
            return
        if path != self._path:
            self._path, self._read = path, 0
            if self._view is not None:
                self._view.begin()
            self._close_trackers()
            self._live = list(self._trackers)
        with path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                # A killed process may leave a half-written line; skip it.
                with contextlib.suppress(json.JSONDecodeError):
                    self._take(folder, json.loads(line))

    def _take(self, folder: Path, event: dict[str, Any]) -> None:
        if self._view is not None:
            self._view.show(event)
        for name in list(self._live):
            with self._unless_broken(name):
                if name not in self._tracked:
                    self._tracked[name] = TrackedRun(name, folder)
                self._tracked[name].show(event)

    def _close_trackers(self) -> None:
        for name, tracked in list(self._tracked.items()):
            with self._unless_broken(name):
                tracked.close()
        self._tracked = {}

    @contextlib.contextmanager
    def _unless_broken(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # an error in a tracker must not stop the run
            self._live = [live_name for live_name in self._live if live_name != name]
            self._tracked.pop(name, None)
            print(f"tracker {name} failed and is not used any more: {error}", file=sys.stderr)


class _Lines:
    """One line per round, and per quarter of any other phase."""

    def __init__(self, since: float) -> None:
        self._state = _State()
        self._since = since

    def begin(self) -> None:
        self._state = _State()

    def show(self, event: dict[str, Any]) -> None:
        state = self._state
        state.take(event)
        if event["time"] < self._since:
            return
        if event["event"] == "client":
            if state.phase != "train" and (state.done == state.total or state.done % max(1, state.total // 4) == 0):
                print(f"{state.title}: {state.done} of {state.total} clients, {state.cost()}", flush=True)
        elif event["event"] == "round":
            print(f"{_round_line(event)}, {state.cost()}", flush=True)
        elif event["event"] == "note":
            print(printable(event["text"]), flush=True)


class _Bars:
    """A bar for each phase; that of the rounds moves with every client."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}
        self._quality = ""
        self._state = _State()

    def begin(self) -> None:
        self._state, self._quality = _State(), ""
        for bar in self._bars.values():
            self.progress.remove_task(bar)
        self._bars = {}

    def show(self, event: dict[str, Any]) -> None:
        state = self._state
        state.take(event)
        if event["event"] == "round":
            self._quality = _round_line(event).partition(": ")[2] + ", "
        elif event["event"] == "note":
            self.progress.console.print(printable(event["text"]))
        if event["event"] in ("phase", "client", "round"):
            self._draw(_TITLES["train"] if event["event"] == "round" else state.title)

    def _draw(self, title: str) -> None:
        state, rounds = self._state, title == _TITLES["train"]
        if title not in self._bars:
            self._bars[title] = self.progress.add_task(title, count="", note="")
        done: float = max(0, state.rounds_done) if rounds else state.done
        # Records before 0.3 tell the number of rounds only when a round ends.
        total = state.rounds or None if rounds else state.total
        note = (self._quality if rounds else "") + state.cost()
        count = f"{int(done)}/{'?' if total is None else total}"
        self.progress.update(self._bars[title], completed=done, total=total, count=count, note=note)


class _State:
    """A run's progress, computed from the times in its events, so that it does not depend on when they are read."""

    def __init__(self) -> None:
        self.phase, self.about, self.round, self.done, self.total, self.bytes = "", "", 0, 0, 0, 0
        self.rounds, self.rounds_done = 0, 0.0
        self._left: float | None = None
        self._at_once: int | None = None
        self._client_seconds: list[float] = []
        self._phase_began = 0.0
        self._rounds_began: tuple[float, int] | None = None

    def take(self, event: dict[str, Any]) -> None:
        self.bytes = event.get("bytes", self.bytes)
        if event["event"] == "phase":
            self.phase, self.total, self.done = event["phase"], event["total"], 0
            self.about = event.get("about") or ""
            self.round = event["round"]
            self._at_once, self._client_seconds, self._left = event.get("at_once"), [], None
            self._phase_began = event["time"]
            if self.phase == "train":
                self.rounds, self.rounds_done = event.get("rounds", self.rounds), event["round"] - 1
                self._rounds_began = self._rounds_began or (event["time"], event["round"])
        elif event["event"] == "client":
            self.done += 1
            if event.get("seconds") is not None:
                self._client_seconds.append(event["seconds"])
            if self.phase == "train":
                self.rounds_done += 1 / self.total
            self._left = self._seconds_left(event)
        elif event["event"] == "round":
            self.rounds, self.rounds_done = event["rounds"], event["round"]
            self._left = self._seconds_left(event)
        elif event["event"] == "resumed":
            # The time between the interruption and the resumption does not count.
            self._rounds_began = None

    @property
    def title(self) -> str:
        """What the phase is called."""
        if (self.phase, self.round) == ("evaluate", 0):
            return "bare backbone"
        return f"{_TITLES[self.phase]} {self.about}".rstrip()

    def _seconds_left(self, event: dict[str, Any]) -> float | None:
        """Return the seconds left for all rounds during stage 1, else for the phase."""
        if self.phase == "train" or event["event"] == "round":
            if self._rounds_began is None or not self.rounds:
                return None
            began, first = self._rounds_began
            passed: float = event["time"] - began
            done = self.rounds_done - first + 1
            return passed / done * (self.rounds - self.rounds_done) if done > 0 else None
        if self._at_once and self._client_seconds:
            # What clients say is right for a resumed phase too, whose first replies were kept, and with many clients
            # side by side, whose first replies come together.
            mean = sum(self._client_seconds) / len(self._client_seconds)
            return mean * (self.total - self.done) / self._at_once
        passed = event["time"] - self._phase_began
        return passed / self.done * (self.total - self.done)

    def cost(self) -> str:
        """Return the bytes so far and the estimated seconds left."""
        left = f", {self._left:.0f} s left" if self._left else ""
        return human_bytes(self.bytes) + left


def _round_line(event: dict[str, Any]) -> str:
    shown = [f"{point}.{key}" for point in ("collective", "personalised") for key in ("accuracy", "mae", "rouge1")]
    quality = "".join(f", {key.replace('.', ' ')} {event[key]:.3f}" for key in shown if key in event)
    loss = "no updates received"
    if event["loss"] is not None:
        loss = f"loss {event['loss']:.3f}"
    elif event.get("updates"):
        loss = f"{event['updates']} updates"  # of a method that trains nothing in this round
    return f"round {event['round']} of {event['rounds']}: {loss}{quality}"
