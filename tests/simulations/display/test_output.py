"""Output that cannot be shown is given up; what was running goes on."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY

pytestmark = pytest.mark.integration
FEDPERFIT = [sys.executable, "-m", "fedperfit"]


def test_a_run_goes_on_when_nobody_reads_its_output_any_more(tmp_path: Path) -> None:
    words = [*FEDPERFIT, "simulate", *TINY, "--name", "run", "--results", str(tmp_path)]
    run = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.readline()
    run.stdout.close()
    assert run.wait(120) == 0
    assert run.stderr.read() == b""
    assert (tmp_path / "run" / "shared.safetensors").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*FEDPERFIT, "params", "--paper"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr == "fedperfit: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_run_with_closed_streams_completes(closed: str, tmp_path: Path) -> None:
    words = shlex.join([*FEDPERFIT, "simulate", *TINY, "--name", "run", "--results", str(tmp_path)])
    done = subprocess.run(["sh", "-c", f"{words} {closed}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "shared.safetensors").is_file()


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"COLUMNS": "0"}, {"COLUMNS": "1"}, {"COLUMNS": "many"}]
)
def test_tables_are_shown_on_odd_terminals(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [*FEDPERFIT, "params", "backbone=tiny", "sites=[1]", "rank.shared=4"],
        capture_output=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"perfit" in done.stdout


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (b"users.source=caf\xe9", "expected text in UTF-8"),
        (b"users.source=/" + b"x" * 300, "File name too long"),
        (b"users.source=~nobody-at-all/x", "there is no such file or folder"),
        (b"backbone=~nobody-at-all/x", "there is no such folder"),
    ],
)
def test_odd_paths_are_refused_in_one_sentence(word: bytes, message: str, tmp_path: Path) -> None:
    words = [*map(os.fsencode, [*FEDPERFIT, "simulate", *TINY, "--results", str(tmp_path)]), word]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_an_error_quotes_does_not_command_the_terminal(tmp_path: Path) -> None:
    name = "\x1b]0;title\x07\x1b[31mred"
    done = subprocess.run(
        [*FEDPERFIT, "simulate", f"users.source={name}", "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "\x07" not in done.stderr
    assert "]0;title" in done.stderr
