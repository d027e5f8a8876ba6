"""Ends every process that a simulation started, including Ray's daemons, and no other.

Ray's daemons start sessions of their own and outlive their process group, so signalling one process group reaches only
some of them. A process belongs to the run if it descends from this one (which adopts orphans), has the
run's mark in its environment, or is in the session of such a process.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

MARK = "FEDPERFIT_RUN_MARK"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_SOFT_S, _HARD_S, _POLL_S = 3.0, 12.0, 2.0


def adopt_orphans(adopt: bool) -> None:
    """Make this process, not init, the parent of its orphaned descendants, or stop doing so (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (Linux); also for `preexec_fn`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with(pid: int) -> None:
    """End this process soon after another: a driver that is killed cannot stop its workers."""

    def wait() -> None:
        while psutil.pid_exists(pid):
            time.sleep(_POLL_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def ignore_signals() -> Iterator[None]:
    """Ignore a second Ctrl-C while processes are being ended (only in the main thread)."""
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
        """Start tracking; children that this process already has are excluded and never touched.

        Args:
            mark: The value of `MARK` in the run's environment.
        """
        self.started: list[subprocess.Popen[bytes]] = []
        """Processes started with `Popen`, which must read their exit status itself."""
        self._needle = f"{MARK}={mark}".encode()
        self._strangers = psutil.Process().children(recursive=True)
        self._sessions: set[int] = set()

    def end(self) -> list[int]:
        """End every process of the run within 15 s: first SIGTERM to those started, then SIGKILL until none is left.

        Returns:
            Ids of the processes that remain, normally none.
        """
        for started in self.started:
            started.terminate()  # it leaves Ray's cluster, or ends its own
        deadline = time.monotonic() + _SOFT_S
        while time.monotonic() < deadline and any(started.poll() is None for started in self.started):
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
        """Collect adopted zombies."""
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
                strangers |= {descendant.pid for descendant in process.children(recursive=True)}
        by_pid = {child.pid: child for child in psutil.Process().children(recursive=True)}
        for process in psutil.process_iter():
            if process.pid in by_pid or process.pid == os.getpid():
                continue
            with contextlib.suppress(OSError, psutil.Error):
                place = Path(f"/proc/{process.pid}")
                if place.stat().st_uid != os.geteuid():
                    continue
                marked = self._needle in (place / "environ").read_bytes().split(b"\0")
                if marked or os.getsid(process.pid) in self._sessions:
                    by_pid[process.pid] = process
        alive = [process for pid, process in by_pid.items() if pid not in strangers and is_alive(process)]
        for process in alive:
            with contextlib.suppress(OSError):
                self._sessions.add(os.getsid(process.pid))
        self._sessions.discard(os.getsid(0))
        return alive


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process is running (a zombie is not)."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which no message goes through a proxy: none leaves this machine or its cluster."""
    return {key: value for key, value in environment.items() if not key.lower().endswith("_proxy")}
