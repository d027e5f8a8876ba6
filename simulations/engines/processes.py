"""Ending every process a simulation started, Ray's daemons included, and no other.

Flower's superexec starts a session of its own, and Ray's daemons outlive the group they were started in, so
signalling one process group reaches only some of them. A process belongs to the run if it descends from this one (we
adopt orphans), carries the run's mark in its environment, or sits in a session of one that does.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "FEDPERFIT_RUN_MARK"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SOFT_S, _HARD_S = 3.0, 12.0


def adopt_orphans(adopt: bool) -> None:
    """Let orphaned descendants become our children instead of init's, or stop doing so (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def die_with_parent() -> None:
    """For `preexec_fn`: have the kernel kill this child when its parent ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@contextlib.contextmanager
def ignore_signals() -> Iterator[None]:
    """Hold back a second Ctrl-C while processes are being ended (only a main thread can)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ProcessTree:
    """The processes of one run."""

    def __init__(self, mark: str) -> None:
        """Start a family; children that this process already has are not of it, and never touched.

        Args:
            mark: The value of `MARK` in the run's environment.
        """
        self.started: list[subprocess.Popen[bytes]] = []
        """The processes this one started by hand; their exit status stays theirs to read."""
        self._needle = f"{MARK}={mark}".encode()
        self._strangers = psutil.Process().children(recursive=True)
        self._sessions: set[int] = set()

    def end(self) -> list[int]:
        """End every process of the run within 15 s: politely first, then by SIGKILL until none is left.

        Returns:
            Process ids that are left, normally none.
        """
        for process in self._living():
            with contextlib.suppress(psutil.Error):
                # flwr-simulation stops Ray in order when asked.
                if process.name().startswith("flwr"):
                    process.terminate()
        deadline = time.monotonic() + _SOFT_S
        while time.monotonic() < deadline and any(not _name(one).startswith("flower-") for one in self._living()):
            time.sleep(0.1)
        deadline = time.monotonic() + _HARD_S
        while (left := self._living()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(0.1)
        self.reap()
        return [process.pid for process in left]

    def reap(self) -> None:
        """Collect adopted zombies: Flower takes a zombie parent for a living one."""
        for process in self.started:
            process.poll()
        spared = {process.pid for process in self.started} | {process.pid for process in self._strangers}
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error, ChildProcessError):
                if child.pid not in spared and child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)

    def _living(self) -> list[psutil.Process]:
        self.reap()
        strangers = {process.pid for process in self._strangers}
        for process in self._strangers:
            with contextlib.suppress(psutil.Error):
                strangers |= {below.pid for below in process.children(recursive=True)}
        found = {child.pid: child for child in psutil.Process().children(recursive=True)}
        for process in psutil.process_iter():
            if process.pid in found or process.pid == os.getpid():
                continue
            with contextlib.suppress(OSError, psutil.Error):
                marked = self._needle in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
                if marked or os.getsid(process.pid) in self._sessions:
                    found[process.pid] = process
        alive = [process for pid, process in found.items() if pid not in strangers and is_alive(process)]
        for process in alive:
            with contextlib.suppress(OSError):
                self._sessions.add(os.getsid(process.pid))
        self._sessions.discard(os.getsid(0))
        return alive


def find_simulation() -> psutil.Process | None:
    """Return this run's `flwr-simulation` process, once it is there."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(part.endswith("/flwr-simulation") for part in process.cmdline()[:2]):
                return process
    return None


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
