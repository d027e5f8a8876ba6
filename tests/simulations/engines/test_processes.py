"""Ending a run's processes, including orphans, and no others."""

import subprocess
import sys
import time
from pathlib import Path

import psutil

from simulations.engines.launch import _last_words
from simulations.engines.processes import MARK, ProcessTree, adopt_orphans, is_alive, without_proxy

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
# Starts a sleeper in a new session and leaves it behind.
LEAVE = [sys.executable, "-c", f"import subprocess; subprocess.Popen({SLEEP!r}, start_new_session=True)"]


def test_only_the_trees_processes_end() -> None:
    others = [subprocess.Popen(SLEEP), subprocess.Popen(SLEEP, start_new_session=True)]
    short = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    adopt_orphans(True)
    try:
        tree = ProcessTree("a-mark")
        for command in (SLEEP, LEAVE):
            tree.started.append(subprocess.Popen(command, start_new_session=True, env={MARK: "a-mark"}))
        tree.started[1].wait()
        time.sleep(0.5)
        assert len(tree._living()) == 2
        assert tree.end() == []
        assert [process.poll() for process in others] == [None, None]
        assert short.wait() == 3
    finally:
        adopt_orphans(False)
        for process in others:
            process.kill()
            process.wait()
    assert not [child for child in psutil.Process().children() if is_alive(child) and child.cmdline() == SLEEP]


def test_a_run_without_a_recorded_error_is_described_by_its_engines_last_exception(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    assert _last_words(log) == f"the run ended without an error message; see {log}"
    log.write_text("Traceback (most recent call last):\nValueError: first\ngrpc.RpcError: then\nINFO\n")
    assert _last_words(log) == f"the run ended with 'grpc.RpcError: then'; see {log}"


def test_messages_on_this_machine_never_go_through_a_proxy() -> None:
    environment = {"HTTP_PROXY": "http://proxy:1", "all_proxy": "socks5://proxy:1", "no_proxy": "x", "HOME": "/home"}
    assert without_proxy(environment) == {"HOME": "/home"}
