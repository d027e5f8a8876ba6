"""Fixtures for all tests. None of them needs a network: `tiny` is built in code."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from configs.load import load_config
from configs.schema import RunConfig
from fl_clients.backbone.load import Backbone, load
from simulations.display import plots
from simulations.experiments import tune
from simulations.run.simulate import simulate
from strategies.wire import sizes

DRAW = plots.draw

TINY = (
    "backbone=tiny",
    "engine=inline",
    "precision=fp32",
    "sites=[1,2]",
    "private_sites=",
    "rank.shared=4",
    "rank.private=2",
    "users.collective=6",
    "users.target=3",
    "users.synthetic.history=8",
    "users.synthetic.queries=4",
    "cohort=3",
    "rounds=2",
    "personal.epochs=2",
    "local.batch_size=6",
    "personal.batch_size=8",
)


_LONGEST = ("test_documents.py", "test_result_pages.py", "cold_start/test_run.py", "test_reference.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the longest files, so that no worker is left alone with one of them at the end."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(_LONGEST))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of the tests' own, shared by their processes; only the fetched backbones are the user's own."""
    import os

    from configs.paths import cache_dir

    backbones = cache_dir() / "backbones"
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        try:
            backbones.mkdir(parents=True, exist_ok=True)
            (folder / "backbones").symlink_to(backbones)
        except PermissionError:
            (folder / "backbones").mkdir()
    os.environ["FEDPERFIT_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def undrawn() -> Iterator[None]:
    """Turn plots off, because drawing them takes longer than a tiny run; a test of plots uses `drawn`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", lambda folder: (folder / "plots").mkdir(exist_ok=True))
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "draw", DRAW)


@pytest.fixture(scope="session")
def tiny(cache: Path) -> Backbone:
    return load("tiny", "fp32")


def tiny_config(*overrides: str) -> RunConfig:
    return load_config(None, [*TINY, *overrides])


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Callable[..., Path]:
    """Return a function that returns the record of a completed tiny run, which tests share and must not change.

    Call it before patching anything, since the run would be made with the patch.
    """
    done: dict[tuple[str, ...], Path] = {}

    def get(*overrides: str) -> Path:
        if overrides not in done:
            folder = tmp_path_factory.mktemp("finished")
            simulate(tiny_config(*overrides), "run", folder)
            done[overrides] = folder / "run"
        return done[overrides]

    return get


def write_lamp(folder: Path, questions: Any, golds: Any, task: str = "LaMP_2") -> Path:
    """Write a pair of official LaMP files; strings are written unchanged."""
    folder.mkdir(exist_ok=True)
    outputs = golds if isinstance(golds, str) else json.dumps({"task": task, "golds": golds})
    (folder / "dev_questions.json").write_text(questions if isinstance(questions, str) else json.dumps(questions))
    (folder / "dev_outputs.json").write_text(outputs)
    return folder


def movie(question_id: str, text: str = "A fight.", history: int = 2) -> dict[str, Any]:
    """One well-formed movie question."""
    return {
        "id": question_id,
        "input": f"Which tag does this movie relate to? tags: [comedy] description: {text}",
        "profile": [
            {"id": f"{question_id}{n}", "tag": "comedy", "description": f"Joke {n} of {question_id}."}
            for n in range(history)
        ],
    }


def happened(folder: Path, what: str) -> bool:
    """Tell whether a run's events already contain `what`."""
    events = folder / "events.jsonl"
    return events.is_file() and what in events.read_text()


@pytest.fixture
def sent_messages(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every message that a run serialises from now on."""
    return keep_messages(monkeypatch)


@pytest.fixture
def two_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search of rates try two, with the given seeds only: on `tiny` all rates are close."""
    monkeypatch.setattr(tune, "GRID", (1e-3, 3e-3))
    monkeypatch.setattr(tune, "RATES", (1e-3, 3e-3))
    monkeypatch.setattr(tune, "_MORE_SEEDS", 0)


def keep_messages(patch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list that gets every message that a run serialises from now on."""
    seen: list[bytes] = []
    original = sizes.message_to_proto

    def spy(message: Any) -> Any:
        proto = original(message)
        seen.append(proto.SerializeToString())
        return proto

    patch.setattr(sizes, "message_to_proto", spy)
    return seen
