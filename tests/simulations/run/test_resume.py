"""Runs that are killed and taken up again: the same run in the end, whenever it was."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from configs.errors import InputError, RunFailed
from configs.load import read_resolved
from fl_clients import handlers
from fl_server.record.schema import read_run
from simulations.cli.main import app
from simulations.experiments.compare import complete
from simulations.experiments.plan import plan
from simulations.run.simulate import resume, simulate
from tests.conftest import TINY, happened, movie, tiny_config, write_lamp
from tests.same import assert_same_run

pytestmark = pytest.mark.integration
METHODS = ["perfit", "fedsa-lora"]
_WORDS = {"perfit": [], "fedsa-lora": ["method=fedsa-lora", "settings.rank=2"]}


def words(method: str) -> list[str]:
    # A look on the way and two turns of some users: everything that is written gets written.
    return [*_WORDS[method], "rounds=3", "evaluate.every=1", "evaluate.point=personalised"]


def killed(method: str, results: str, cache: str, at: int, torn: bool) -> None:
    """Run `simulate` and die at the `at`-th file put in its place or removed; it may be half written."""
    os.environ["FEDPERFIT_CACHE"] = cache
    put, remove, count = Path.replace, Path.unlink, 0

    def step(path: Path) -> None:
        nonlocal count
        count += results in str(path)
        if count == at and results in str(path):
            if torn and path.suffix == ".tmp":
                os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(self: Path, target: Any) -> Path:
        step(self)
        return put(self, target)

    def unlink(self: Path, missing_ok: bool = False) -> None:
        step(self)
        remove(self, missing_ok)

    Path.replace, Path.unlink = replace, unlink  # type: ignore[method-assign,assignment]
    simulate(tiny_config(*words(method)), "killed", Path(results))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("whole")

    def get(method: str) -> Path:
        if not (folder / method).exists():
            simulate(tiny_config(*words(method)), method, folder)
        return folder / method

    return get


# A sample of the places to be killed at; FEDPERFIT_KILL_EVERYWHERE takes every one.
KILLS = [("perfit", 5, True), ("perfit", 14, False), ("perfit", 27, True), ("perfit", 40, False)]
KILLS += [("fedsa-lora", 20, False), ("fedsa-lora", 39, True), ("fedsa-lora", 46, False), ("fedsa-lora", 52, True)]
if "FEDPERFIT_KILL_EVERYWHERE" in os.environ:
    KILLS = [
        (method, at, torn)
        for method, last in (("perfit", 42), ("fedsa-lora", 54))
        for at in range(5, last)
        for torn in (False, True)
    ]


@pytest.mark.parametrize(("method", "at", "torn"), KILLS)
def test_killed_at_any_write_it_ends_as_if_it_had_not_been(
    method: str, at: int, torn: bool, whole: Callable[[str], Path], cache: Path, tmp_path: Path
) -> None:
    # A fork server has everything loaded and no threads yet.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.simulations.run.test_resume"])
    child = context.Process(target=killed, args=(method, str(tmp_path), str(cache), at, torn))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL, f"fewer than {at} files were put in place"
    record = resume("killed", tmp_path)
    assert record.resumed == 1
    assert_same_run(tmp_path / "killed", whole(method))


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_killed_before_its_first_checkpoint_a_run_is_begun_anew(at: int, cache: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.simulations.run.test_resume"])
    child = context.Process(target=killed, args=("perfit", str(tmp_path), str(cache), at, False))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    simulate(tiny_config(), "killed", tmp_path, overwrite=True)
    assert not list(tmp_path.glob(".killed.*"))


def interrupted(tmp_path: Path, *more: str, after: str = '"round", "round": 1') -> Path:
    """A run that was interrupted after its first round."""

    def stop(folder: Path) -> None:
        if happened(folder, after):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tiny_config(*more), "stopped", tmp_path, on_progress=stop)
    record = read_run(tmp_path / "stopped")
    assert record.status == "cancelled"
    assert record.wall_s > 0
    return tmp_path / "stopped"


def test_an_interrupted_run_and_one_interrupted_again_go_on(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    with (folder / "events.jsonl").open("a") as events:
        events.write('{"event": "clie')  # as a kill leaves it

    def stop(_folder: Path) -> None:
        if happened(folder, "personalize"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resume("stopped", tmp_path, stop)
    assert resume("stopped", tmp_path).resumed == 2
    simulate(tiny_config(), "whole", tmp_path)
    assert_same_run(folder, tmp_path / "whole")
    events = []
    for line in (folder / "events.jsonl").read_text().splitlines():
        if not line.startswith('{"event": "clie'):
            events.append(json.loads(line)["event"])
    assert events.count("resumed") == 2
    assert events.count("round") == 2


def test_who_is_personalised_is_not_personalised_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(tmp_path, after='"client", "phase": "personalize"')
    first = folder / "private" / "6.safetensors"
    written = first.stat().st_mtime_ns
    asked: list[int] = []
    personalize = handlers.personalize

    def note(*args: Any, **kwargs: Any) -> handlers.Reply:
        asked.append(args[0].partition)
        return personalize(*args, **kwargs)

    monkeypatch.setattr(handlers, "personalize", note)
    resume("stopped", tmp_path)
    assert 6 not in asked
    assert asked[-1] == 8
    assert first.stat().st_mtime_ns == written


def test_a_comparison_takes_its_interrupted_run_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(["perfit"], None, [*TINY, "rounds=3"], [0])

    def stop(folder: Path) -> None:
        if happened(folder, '"round", "round": 2'):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete(planned, tmp_path / "x", False, print, stop)
    (run,) = complete(planned, tmp_path / "x", False, print)
    assert run.record.resumed == 1
    # What was trained is not lost to another config of the same name.
    with pytest.raises(KeyboardInterrupt):
        complete(plan(["perfit"], None, [*TINY, "rounds=3"], [1]), tmp_path / "y", False, print, stop)
    other = plan(["perfit"], None, [*TINY, "rounds=4"], [1])
    with pytest.raises(InputError, match=r"was interrupted and is of another config \(rounds is 3 there, 4 here\)"):
        complete(other, tmp_path / "y", False, print)
    (changed,) = plan(["perfit"], None, [*TINY, "rounds=3"], [1])
    with pytest.raises(InputError, match=r"was interrupted and is of another config \(its users have changed since\)"):
        complete([replace(changed, data_sha256="other")], tmp_path / "y", False, print)
    (run,) = complete(other, tmp_path / "y", True, print)
    assert (run.record.resumed, run.config.rounds) == (0, 4)


def test_a_relative_source_is_told_as_it_is_and_found_again_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = [movie(str(number)) for number in range(9)]
    write_lamp(tmp_path / "lamp", films, [{"id": str(number), "output": "comedy"} for number in range(9)])
    monkeypatch.chdir(tmp_path)
    folder = interrupted(tmp_path, "users.source=./lamp")
    assert read_resolved(folder / "config.toml").users.source == "lamp"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resume("stopped", tmp_path).status == "completed"


def test_what_cannot_be_taken_up_again_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run record"):
        resume("nothing", tmp_path)
    films = [movie(str(number)) for number in range(9)]
    golds = [{"id": str(number), "output": "comedy"} for number in range(9)]
    source = write_lamp(tmp_path / "lamp", films, golds)
    folder = interrupted(tmp_path, f"users.source={source}")
    with (
        FileLock(tmp_path / ".stopped.lock"),
        pytest.raises(InputError, match="another command works in it"),
    ):
        resume("stopped", tmp_path)
    films[0]["profile"][0]["description"] = "Another film."
    write_lamp(tmp_path / "lamp", films, golds)
    with pytest.raises(InputError, match="have changed since the run began"):
        resume("stopped", tmp_path)
    films[0]["profile"][0]["description"] = "Joke 0."
    write_lamp(tmp_path / "lamp", films, golds)
    checkpoint = folder / ".checkpoint" / "checkpoint.json"
    saved = checkpoint.read_text()
    checkpoint.write_text(saved[:20])
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        resume("stopped", tmp_path)
    checkpoint.write_text(saved)
    resume("stopped", tmp_path)
    with pytest.raises(InputError, match="this run has completed"):
        resume("stopped", tmp_path)
    refused = CliRunner().invoke(app, ["simulate", "--resume", "stopped", "seed=1"])
    assert "leave the rest out" in str(refused.exception)
    # An unset variable of a shell starts no new run.
    assert "not a run record" in str(CliRunner().invoke(app, ["simulate", "--resume", ""]).exception)


def full(results: str, cache: str, limit: int) -> None:
    """Run `simulate`; once it runs no file grows beyond `limit` bytes. Leave with 3 if that is said well."""
    os.environ["FEDPERFIT_CACHE"] = cache

    def fill(_folder: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    try:
        simulate(tiny_config("rounds=3"), "full", Path(results), on_progress=fill)
    except RunFailed:
        os._exit(3)


@pytest.mark.parametrize("limit", [2500, 5000, 7000])
def test_a_full_disk_loses_nothing(limit: int, cache: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.simulations.run.test_resume"])
    child = context.Process(target=full, args=(str(tmp_path), str(cache), limit))
    child.start()
    child.join(120)
    assert child.exitcode == 3
    assert resume("full", tmp_path).resumed == 1
    simulate(tiny_config("rounds=3"), "whole", tmp_path)
    assert_same_run(tmp_path / "full", tmp_path / "whole")


def test_a_run_killed_while_it_is_tidied_up_is_finished(drawn: None, tmp_path: Path) -> None:
    simulate(tiny_config(), "run", tmp_path)
    simulate(tiny_config(), "whole", tmp_path)
    shutil.rmtree(tmp_path / "run" / "plots")
    (tmp_path / "run" / ".ledger").mkdir()  # as a kill in the middle leaves it
    resume("run", tmp_path)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert (tmp_path / "run" / "plots" / "quality.png").is_file()


def test_an_orphan_that_completes_the_run_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(tmp_path)
    simulate(tiny_config(), "whole", tmp_path)

    def complete_first(_folder: Path) -> None:
        for path in (tmp_path / "whole").iterdir():
            if path.name in ("run.json", "ledger.parquet", "clients.parquet", "rounds.parquet", "predictions.jsonl"):
                shutil.copy(path, folder / path.name)
        shutil.rmtree(folder / ".checkpoint")

    monkeypatch.setattr("simulations.run.simulate.end_leftovers", complete_first)
    assert resume("stopped", tmp_path).status == "completed"
