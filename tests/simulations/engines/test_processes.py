"""Ending a run's processes: its own, orphans included, and nobody else's."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

from simulations.engines.launch import _last_words
from simulations.engines.processes import MARK, ProcessTree, adopt_orphans, is_alive

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
# Starts a sleeper in a session of its own and leaves it behind.
LEAVE = [sys.executable, "-c", f"import subprocess; subprocess.Popen({SLEEP!r}, start_new_session=True)"]


def test_only_the_familys_processes_end() -> None:
    mine = [subprocess.Popen(SLEEP), subprocess.Popen(SLEEP, start_new_session=True)]
    short = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    adopt_orphans(True)
    try:
        family = ProcessTree("a-mark")
        for command in (SLEEP, LEAVE):
            family.started.append(subprocess.Popen(command, start_new_session=True, env={MARK: "a-mark"}))
        family.started[1].wait()
        time.sleep(0.5)
        assert len(family._living()) == 2
        assert family.end() == []
        assert [process.poll() for process in mine] == [None, None]
        assert short.wait() == 3
    finally:
        adopt_orphans(False)
        for process in mine:
            process.kill()
            process.wait()
    assert not [child for child in psutil.Process().children() if is_alive(child) and child.cmdline() == SLEEP]


def test_a_run_that_did_not_say_how_it_ended_is_told_by_its_engines_last_exception(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    assert _last_words(log) == f"the run ended without a word; see {log}"
    log.write_text("Traceback (most recent call last):\nValueError: first\ngrpc.RpcError: then\nINFO\n")
    assert _last_words(log) == f"the run ended with 'grpc.RpcError: then'; see {log}"
