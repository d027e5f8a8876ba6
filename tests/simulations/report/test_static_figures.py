"""Figures as files: those of real users are their owner's, and a folder that was there keeps its mode."""

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io
import pytest

from simulations.report.static_figures import FORMATS, write_figures


@pytest.fixture(autouse=True)
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    def write_images(_figures: list[go.Figure], paths: list[Path], **_size: Any) -> None:
        for path in paths:
            path.touch(mode=0o644)

    pytest.importorskip("kaleido")
    monkeypatch.setattr(plotly.io, "write_images", write_images)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    write_figures({"bytes": go.Figure()}, tmp_path, private=True)
    assert mode(tmp_path) == 0o755
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == {f"bytes.{form}": 0o600 for form in FORMATS}


def test_a_new_folder_of_real_users_figures_is_the_owners(tmp_path: Path) -> None:
    write_figures({"bytes": go.Figure()}, tmp_path / "new", private=True)
    assert mode(tmp_path / "new") == 0o700
