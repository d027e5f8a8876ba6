"""The checkout that a run was made with, in its record."""

import subprocess
from pathlib import Path

import pytest

from simulations.run import new_record


def test_other_runs_records_do_not_make_a_checkout_count_as_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    monkeypatch.setattr(new_record, "ROOT", tmp_path.resolve())
    git("init")
    (tmp_path / "code.py").write_text("")
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run.json").write_text("{}")
    assert new_record._git()["dirty"] is False
    (tmp_path / "code.py").write_text("changed")
    assert new_record._git()["dirty"] is True
