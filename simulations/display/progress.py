"""Progress of a run from `events.jsonl`: bars on a terminal, plain lines elsewhere."""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from simulations.display.output import printable
from simulations.display.tables import human_bytes
from simulations.display.trackers import TrackedRun, check_tracker

_TITLES = {
    "train": "training",
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
                print(f"{_TITLES[state.phase]}: {state.done} of {state.total} clients, {state.cost()}", flush=True)
        elif event["event"] == "round":
            print(f"{_round_line(event)}, {state.cost()}", flush=True)
        elif event["event"] == "note":
            print(printable(event["text"]), flush=True)


class _Bars:
    """A bar for the rounds and one for each phase."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}
        self._state = _State()

    def begin(self) -> None:
        self._state = _State()
        for bar in self._bars.values():
            self.progress.remove_task(bar)
        self._bars = {}

    def show(self, event: dict[str, Any]) -> None:
        state = self._state
        state.take(event)
        if event["event"] == "phase":
            self._bar(_TITLES[state.phase], state.total, reset=True)
        elif event["event"] == "client":
            self.progress.update(self._bar(_TITLES[state.phase]), completed=state.done, note=state.cost())
        elif event["event"] == "round":
            bar = self._bar("rounds", event["rounds"])
            quality = _round_line(event).partition(": ")[2]
            self.progress.update(bar, completed=event["round"], note=f"{quality}, {state.cost()}")
        elif event["event"] == "note":
            self.progress.console.print(printable(event["text"]))

    def _bar(self, title: str, total: int | None = None, reset: bool = False) -> TaskID:
        if title not in self._bars:
            self._bars[title] = self.progress.add_task(title, total=total, note="")
        elif reset:
            self.progress.reset(self._bars[title], total=total, note="")
        return self._bars[title]


class _State:
    """A run's progress, computed from the times in its events, so that it does not depend on when they are read."""

    def __init__(self) -> None:
        self.phase, self.done, self.total, self.bytes = "", 0, 0, 0
        self._left: float | None = None
        self._phase_began = 0.0
        self._rounds_began: tuple[float, int] | None = None

    def take(self, event: dict[str, Any]) -> None:
        self.bytes = event.get("bytes", self.bytes)
        if event["event"] == "phase":
            self.phase, self.total, self.done = event["phase"], event["total"], 0
            self._phase_began = event["time"]
            if self.phase == "train" and self._rounds_began is None:
                self._rounds_began = (event["time"], event["round"])
        elif event["event"] == "client":
            self.done += 1
            self._left = (event["time"] - self._phase_began) / self.done * (self.total - self.done)
        elif event["event"] == "round" and self._rounds_began:
            began, first = self._rounds_began
            self._left = (event["time"] - began) / (event["round"] - first + 1) * (event["rounds"] - event["round"])
        elif event["event"] == "resumed":
            # The time between the interruption and the resumption does not count.
            self._rounds_began = None

    def cost(self) -> str:
        """Return the bytes so far and the estimated seconds left."""
        left = f", {self._left:.0f} s left" if self._left else ""
        return human_bytes(self.bytes) + left


def _round_line(event: dict[str, Any]) -> str:
    shown = [f"{point}.{key}" for point in ("collective", "personalised") for key in ("accuracy", "mae", "rouge1")]
    quality = "".join(f", {key.replace('.', ' ')} {event[key]:.3f}" for key in shown if key in event)
    loss = f"loss {event['loss']:.3f}" if event["loss"] is not None else "no updates received"
    return f"round {event['round']} of {event['rounds']}: {loss}{quality}"
