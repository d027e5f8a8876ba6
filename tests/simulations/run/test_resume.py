"""Runs that are killed and resumed: the result is the same, whenever they were killed."""

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
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from configs.errors import InputError, RunFailed
from configs.load import read_resolved
from fl_clients import handlers
from fl_clients.backbone.builtin import fetch
from fl_server.record.schema import read_run
from simulations.cli.main import app
from simulations.experiments.compare import complete
from simulations.experiments.plan import plan
from simulations.run.simulate import resume, simulate
from tests.conftest import TINY, happened, movie, tiny_config, write_lamp
from tests.same import assert_same_run

pytestmark = pytest.mark.integration
METHODS = ["perfit", "fedsa-lora"]
_CODED = ["wire.up=top-k 0.1", "wire.down=int4", "server.optimizer=adam", "server.lr=0.02", "local.keep_moments=true"]
_CODED += ["users.held_out=1", "keep=best"]
_CODED += ["privacy.kind=central", "privacy.noise_multiplier=1", "privacy.clip_quantile=0.5"]
_WORDS = {"perfit": [], "fedsa-lora": ["method=fedsa-lora", "settings.rank=2"], "coded": _CODED}


def words(method: str) -> list[str]:
    # With midway evaluations and two tasks for some users, every kind of file is written.
    return [*_WORDS[method], "rounds=3", "evaluate.every=1", "evaluate.point=personalised"]


def killed(method: str, results: str, cache: str, at: int, torn: bool) -> None:
    """Run `simulate` and die at the `at`-th file replaced or removed; with `torn`, the file is half written."""
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


# A sample of the writes to be killed at; FEDPERFIT_KILL_EVERYWHERE=1 takes them all.
KILLS = [("perfit", 5, True), ("perfit", 14, False), ("perfit", 27, True), ("perfit", 40, False)]
KILLS += [("coded", 18, True), ("coded", 28, False), ("coded", 35, True), ("coded", 45, False)]
KILLS += [("fedsa-lora", 20, False), ("fedsa-lora", 39, True), ("fedsa-lora", 46, False), ("fedsa-lora", 52, True)]
if "FEDPERFIT_KILL_EVERYWHERE" in os.environ:
    KILLS = [
        (method, at, torn)
        for method, last in (("perfit", 42), ("fedsa-lora", 54), ("coded", 48))
        for at in range(5, last)
        for torn in (False, True)
    ]


@pytest.mark.parametrize(("method", "at", "torn"), KILLS)
def test_a_run_killed_at_any_write_ends_like_an_uninterrupted_one(
    method: str, at: int, torn: bool, whole: Callable[[str], Path], cache: Path, tmp_path: Path
) -> None:
    # A fork server has everything loaded and has no threads yet.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.simulations.run.test_resume"])
    child = context.Process(target=killed, args=(method, str(tmp_path), str(cache), at, torn))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL, f"fewer than {at} files were replaced or removed"
    record = resume("killed", tmp_path)
    assert record.resumed == 1
    assert_same_run(tmp_path / "killed", whole(method))


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_run_killed_before_its_first_checkpoint_is_started_anew(at: int, cache: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.simulations.run.test_resume"])
    child = context.Process(target=killed, args=("perfit", str(tmp_path), str(cache), at, False))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    simulate(tiny_config(), "killed", tmp_path, overwrite=True)
    assert not list(tmp_path.glob(".killed.*"))


def interrupted(tmp_path: Path, *more: str, after: str = '"round", "round": 1') -> Path:
    """Return a run that was interrupted, by default after its first round."""

    def stop(folder: Path) -> None:
        if happened(folder, after):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tiny_config(*more), "stopped", tmp_path, on_progress=stop)
    record = read_run(tmp_path / "stopped")
    assert record.status == "cancelled"
    assert record.wall_s > 0
    return tmp_path / "stopped"


def test_a_run_interrupted_twice_is_resumed_twice(tmp_path: Path) -> None:
    folder = interrupted(tmp_path)
    with (folder / "events.jsonl").open("a") as events:
        events.write('{"event": "clie')  # as after a kill

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


def test_a_personalised_user_is_not_personalised_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(tmp_path, after='"client", "phase": "personalize"')
    first = folder / "private" / "6.safetensors"
    written = first.stat().st_mtime_ns
    personalised: list[int] = []
    personalize = handlers.personalize

    def note(*args: Any, **kwargs: Any) -> handlers.Reply:
        personalised.append(args[0].partition)
        return personalize(*args, **kwargs)

    monkeypatch.setattr(handlers, "personalize", note)
    resume("stopped", tmp_path)
    assert 6 not in personalised
    assert personalised[-1] == 8
    assert first.stat().st_mtime_ns == written


def test_a_comparison_resumes_its_interrupted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(["perfit"], None, [*TINY, "rounds=3"], [0])

    def stop(folder: Path) -> None:
        if happened(folder, '"round", "round": 2'):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete(planned, tmp_path / "x", False, print, stop)
    (run,) = complete(planned, tmp_path / "x", False, print)
    assert run.record.resumed == 1
    # An interrupted run is not replaced by another config of the same name.
    with pytest.raises(KeyboardInterrupt):
        complete(plan(["perfit"], None, [*TINY, "rounds=3"], [1]), tmp_path / "y", False, print, stop)
    other = plan(["perfit"], None, [*TINY, "rounds=4"], [1])
    with pytest.raises(InputError, match=r"was interrupted and has a different config \(rounds: 3 vs. 4\)"):
        complete(other, tmp_path / "y", False, print)
    (changed,) = plan(["perfit"], None, [*TINY, "rounds=3"], [1])
    with pytest.raises(InputError, match=r"interrupted and has a different config \(its users have changed since\)"):
        complete([replace(changed, data_sha256="other")], tmp_path / "y", False, print)
    (run,) = complete(other, tmp_path / "y", True, print)
    assert (run.record.resumed, run.config.rounds) == (0, 4)


def test_a_relative_source_is_recorded_as_given_and_found_from_another_folder(
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


def test_a_run_that_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run record of that name"):
        resume("nothing", tmp_path)
    films = [movie(str(number)) for number in range(9)]
    golds = [{"id": str(number), "output": "comedy"} for number in range(9)]
    source = write_lamp(tmp_path / "lamp", films, golds)
    folder = interrupted(tmp_path, f"users.source={source}")
    with (
        FileLock(tmp_path / ".stopped.lock"),
        pytest.raises(InputError, match="another command is using it"),
    ):
        resume("stopped", tmp_path)
    films[0]["profile"][0]["description"] = "Another film."
    write_lamp(tmp_path / "lamp", films, golds)
    with pytest.raises(InputError, match="have changed since the run began"):
        resume("stopped", tmp_path)
    films[0]["profile"][0]["description"] = "Joke 0 of 0."
    write_lamp(tmp_path / "lamp", films, golds)
    checkpoint = folder / ".checkpoint" / "checkpoint.json"
    saved = checkpoint.read_text()
    checkpoint.write_text(saved[:20])
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        resume("stopped", tmp_path)
    checkpoint.write_text(saved.replace("state-", "other-"))
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        resume("stopped", tmp_path)
    checkpoint.write_text(json.dumps({**json.loads(saved), "state_file": ""}))
    with pytest.raises(InputError, match="an older version began this run; run it anew"):
        resume("stopped", tmp_path)
    checkpoint.write_text(saved)
    resume("stopped", tmp_path)
    with pytest.raises(InputError, match="this run has completed"):
        resume("stopped", tmp_path)
    refused = CliRunner().invoke(app, ["simulate", "--resume", "stopped", "seed=1"])
    assert "leave out everything else" in str(refused.exception)
    # An empty name, as from an unset shell variable, starts no new run.
    assert "no run record of that name" in str(CliRunner().invoke(app, ["simulate", "--resume", ""]).exception)


def test_a_run_whose_backbone_has_changed_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(fetch("tiny"), model)
    interrupted(tmp_path, f"backbone={model}")
    before = (model / "model.safetensors").read_bytes()
    weights = load_file(model / "model.safetensors")
    save_file({name: value * 2 for name, value in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"backbone: '{model}' has other weights than when the run was made"):
        resume("stopped", tmp_path)
    (model / "model.safetensors").write_bytes(before)
    assert resume("stopped", tmp_path).status == "completed"


def full(results: str, cache: str, limit: int) -> None:
    """Run `simulate` so that no file can grow beyond `limit` bytes; exit with 3 if it raises `RunFailed`."""
    os.environ["FEDPERFIT_CACHE"] = cache

    def fill(_folder: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    try:
        simulate(tiny_config("rounds=3"), "full", Path(results), on_progress=fill)
    except RunFailed:
        os._exit(3)


@pytest.mark.parametrize("limit", [2500, 4000, 5000])
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


def test_a_run_killed_during_cleanup_is_finished(drawn: None, tmp_path: Path) -> None:
    simulate(tiny_config(), "run", tmp_path)
    simulate(tiny_config(), "whole", tmp_path)
    shutil.rmtree(tmp_path / "run" / "plots")
    (tmp_path / "run" / ".ledger").mkdir()  # as after a kill during cleanup
    resume("run", tmp_path)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert (tmp_path / "run" / "plots" / "quality.png").is_file()


def test_a_run_completed_by_an_orphan_process_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = interrupted(tmp_path)
    simulate(tiny_config(), "whole", tmp_path)

    def complete_first(_folder: Path) -> None:
        for path in (tmp_path / "whole").iterdir():
            if path.name in ("run.json", "ledger.parquet", "clients.parquet", "rounds.parquet", "predictions.jsonl"):
                shutil.copy(path, folder / path.name)
        shutil.rmtree(folder / ".checkpoint")

    monkeypatch.setattr("simulations.run.simulate.end_leftovers", complete_first)
    assert resume("stopped", tmp_path).status == "completed"
