"""An untrusted run record cannot remove other folders or end other processes."""

import os
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from simulations.engines.processes import MARK, is_alive
from simulations.engines.ray_engine import end_leftovers


def record(folder: Path, mark: str, home: Path | str) -> Path:
    (folder / "run").mkdir()
    (folder / "run" / ".mark").write_text(f"{mark}\n{home}")
    return folder / "run"


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fpf-", dir="/tmp"))
    yield folder
    if folder.is_dir() and not folder.is_symlink():
        folder.rmdir()


def test_a_killed_runs_own_folder_is_removed(home: Path, tmp_path: Path) -> None:
    run = record(tmp_path, uuid.uuid4().hex, home)
    end_leftovers(run)
    assert not home.exists()
    assert not (run / ".mark").exists()


@pytest.mark.parametrize("kind", ["elsewhere", "a link", "below", "relative", "upwards", "nothing"])
def test_no_other_folder_is_removed(kind: str, home: Path, tmp_path: Path) -> None:
    victim = tmp_path / "fpf-victim"
    (victim / "keep").mkdir(parents=True)
    (home / "fpf-inside").mkdir()
    link = Path("/tmp") / f"fpf-{uuid.uuid4().hex}"
    link.symlink_to(victim)
    named = {
        "elsewhere": victim,
        "a link": link,
        "below": home / "fpf-inside",
        "relative": os.path.relpath(home),
        "upwards": f"{home}/../{home.name}/../../{victim}",
        "nothing": "",
    }[kind]
    try:
        end_leftovers(record(tmp_path, uuid.uuid4().hex, named))
        assert (victim / "keep").is_dir()
        assert (home / "fpf-inside").is_dir()
    finally:
        link.unlink()
        (home / "fpf-inside").rmdir()


def orphan(mark: str, **options: Any) -> psutil.Process:
    """Start a sleeping process with a mark; its parent has ended."""
    script = "sleep 600 >/dev/null 2>&1 & echo $!"
    started = subprocess.run(
        ["sh", "-c", script], env={**os.environ, MARK: mark}, capture_output=True, text=True, check=True, **options
    )
    return psutil.Process(int(started.stdout))


def test_only_processes_with_a_runs_own_mark_end(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    marked, other, odd = orphan(mark), orphan(uuid.uuid4().hex), orphan("x")
    try:
        end_leftovers(record(tmp_path, mark, ""))
        assert [is_alive(process) for process in (marked, other, odd)] == [False, True, True]
        # A mark that no run has is not looked for.
        (tmp_path / "run" / ".mark").write_text("x")
        end_leftovers(tmp_path / "run")
        assert is_alive(odd)
    finally:
        for process in (other, odd):
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_processes_of_another_user_live_on(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    theirs = orphan(mark, user=65534)
    try:
        end_leftovers(record(tmp_path, mark, ""))
        assert is_alive(theirs)
    finally:
        theirs.kill()
