"""Output that cannot be shown is given up; what was running goes on."""

import os
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
