"""Runs that several tests export, each made once."""

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest

from fl_clients.tools import Tools
from simulations.run.simulate import simulate
from tests.conftest import tiny_config

_TRAINING = ("rounds=3", "local.lr=3e-2", "personal.lr=3e-2", "local.batch_size=4", "personal.batch_size=4")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Callable[..., Path]:
    results = tmp_path_factory.mktemp("export")

    def once(method: str, *words: str) -> Path:
        name = f"{method}-{crc32(' '.join(words).encode())}"
        if not (results / name).is_dir():
            simulate(tiny_config(f"method={method}", *_TRAINING, *words), name, results)
        return results / name

    return once


@pytest.fixture
def answers_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `tiny`, which continues every text alike, write something else after every prompt."""
    monkeypatch.setattr(Tools, "generate", lambda _self, prompts, _tokens: [f"said {len(text)}" for text in prompts])
