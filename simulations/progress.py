"""What a person sees while a run goes on: bars on a terminal, plain lines elsewhere, both from `events.jsonl`."""

import contextlib
import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_TITLES = {
    "train": "training",
    "personalize": "personalising",
    "evaluate": "evaluating",
    "rollcall": "roll call",
}


class _View(Protocol):
    def show(self, event: dict[str, Any]) -> None: ...


class Follower:
    """Reads new lines of a run's events and shows them."""

    def __init__(self, console: Console, quiet: bool) -> None:
        """Choose bars for a terminal, lines elsewhere, nothing if quiet."""
        self._path: Path | None = None
        self._read = 0
        self._bars = None if quiet or not console.is_terminal else _Bars(console)
        self._view: _View | None = None if quiet else self._bars or _Lines()

    def __enter__(self) -> "Follower":
        """Start drawing."""
        if self._bars:
            self._bars.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        if self._bars:
            self._bars.progress.stop()

    def __call__(self, folder: Path) -> None:
        """Show what happened since the last call; a half-written last line waits for the next."""
        path = folder / "events.jsonl"
        if path != self._path:
            self._path, self._read = path, 0
        if self._view is None or not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                # A line that a killed process left half written is passed over.
                with contextlib.suppress(json.JSONDecodeError):
                    self._view.show(json.loads(line))


class _Lines:
    """One line a phase and a round."""

    def __init__(self) -> None:
        self._done = 0
        self._phase: dict[str, Any] = {"phase": "", "total": 0}

    def show(self, event: dict[str, Any]) -> None:
        if event["event"] == "phase":
            self._phase, self._done = event, 0
        elif event["event"] == "client":
            self._done += 1
            total = self._phase["total"]
            if self._phase["phase"] != "train" and (self._done == total or self._done % max(1, total // 4) == 0):
                print(f"{_TITLES[self._phase['phase']]}: {self._done} of {total} clients", flush=True)
        elif event["event"] == "round":
            print(_round_line(event), flush=True)
        elif event["event"] == "note":
            print(event["text"], flush=True)


class _Bars:
    """Four bars: rounds, clients of the round, personalisation, evaluation."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._bars: dict[str, TaskID] = {}
        self._phase = ""

    def show(self, event: dict[str, Any]) -> None:
        if event["event"] == "phase":
            self._phase = event["phase"]
            self._bar(_TITLES[self._phase], event["total"], reset=True)
        elif event["event"] == "client":
            self.progress.advance(self._bar(_TITLES[self._phase]))
        elif event["event"] == "round":
            bar = self._bar("rounds", event["rounds"])
            self.progress.update(bar, completed=event["round"], note=_round_line(event).partition(": ")[2])
        elif event["event"] == "note":
            self.progress.console.print(event["text"])

    def _bar(self, title: str, total: int | None = None, reset: bool = False) -> TaskID:
        if title not in self._bars:
            self._bars[title] = self.progress.add_task(title, total=total, note="")
        elif reset:
            self.progress.reset(self._bars[title], total=total)
        return self._bars[title]


def _round_line(event: dict[str, Any]) -> str:
    shown = [f"{stage}.{key}" for stage in ("collective", "personalised") for key in ("accuracy", "mae", "rouge1")]
    quality = "".join(f", {key.replace('.', ' ')} {event[key]:.3f}" for key in shown if key in event)
    loss = f"loss {event['loss']:.3f}" if event["loss"] is not None else "nobody's update came"
    return f"round {event['round']} of {event['rounds']}: {loss}{quality}"


def console() -> Console:
    """Return the console that people read: standard output."""
    return Console(file=sys.stdout)
