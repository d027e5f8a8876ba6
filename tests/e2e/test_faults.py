"""Real faults on Ray: killed processes and hanging tasks. Every run ends like an uninterrupted one."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from configs.load import load_config
from fl_server.record.schema import read_run
from simulations.run.simulate import resume, simulate
from tests.conftest import TINY
from tests.e2e.test_ray import left_over
from tests.same import assert_same_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RAY = [word for word in TINY if word != "engine=inline"]


def faulty(folder: Path, *faults: str) -> list[str]:
    (folder / "markers").mkdir()
    toml = folder / "faulty.toml"
    settings = f"faults = {json.dumps(faults)}\nmarkers = {json.dumps(str(folder / 'markers'))}\n"
    toml.write_text(f'method = "tests.e2e.faulty:Faulty"\n[settings]\n{settings}')
    return [str(toml), *RAY, "rounds=3", "local.lr=5e-3", "personal.lr=8e-3"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    toml, *words = faulty(folder)
    simulate(load_config(Path(toml), [*words, "engine=inline"]), "run", folder, import_path=[str(ROOT)])
    return folder / "run"


def on_ray(folder: Path, words: list[str], on_progress: Callable[[Path], None] = lambda _folder: None) -> Path:
    toml, *overrides = words
    simulate(load_config(Path(toml), overrides), "run", folder, import_path=[str(ROOT)], on_progress=on_progress)
    return folder / "run"


def errors_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "errors.jsonl").read_text().splitlines()]


def test_a_worker_that_dies_one_that_raises_and_one_that_hangs(tmp_path: Path, uninterrupted: Path) -> None:
    words = faulty(tmp_path, "die@round2", "raise@round3", "hang@personalize")
    folder = on_ray(tmp_path, [*words, "faults.client_seconds=10"])
    assert_same_run(folder, uninterrupted)
    record = read_run(folder)
    # A busy machine may take over 10 s to start the worker that answers the roll call, which is not a task.
    tasks = [error for error in errors_of(folder) if error["phase"] != "rollcall"]
    errors = {(task["phase"], task["round"]): str(task["traceback"]) for task in tasks}
    assert record.retries == len(tasks) >= 3
    assert record.resumed == 0
    assert "the worker process ended" in errors["train", 2]
    assert "only this once" in errors["train", 3]
    assert "over faults.client_seconds" in errors["personalize", 3]


def test_server_killed_in_a_round_and_a_worker_while_it_personalises(tmp_path: Path, uninterrupted: Path) -> None:
    words = faulty(tmp_path, "pause@round2", "die@personalize")
    paused = tmp_path / "markers" / "round2"
    killed: list[int] = []

    def kill_server(_folder: Path) -> None:
        if paused.exists() and not killed:
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it may have ended
                    if "fedperfit.flower_apps.simulation" in child.cmdline():
                        killed.append(child.pid)
                        child.kill()

    # One actor in this run, two in the others, none in the uninterrupted run: the same bits.
    folder = on_ray(tmp_path, [*words, "partitions.cpus=1"], kill_server)
    assert killed
    assert_same_run(folder, uninterrupted)
    assert read_run(folder).resumed == 1
    # Tasks running when the server died may also have been recorded as failures.
    assert "personalize" in {error["phase"] for error in errors_of(folder)}


def test_a_run_whose_driver_is_killed_in_a_round_can_be_resumed(tmp_path: Path, uninterrupted: Path) -> None:
    words = faulty(tmp_path, "pause@round2")
    mark = f"{os.getpid()}9"
    driver = subprocess.Popen(
        [sys.executable, "-m", "fedperfit", "simulate", *words, "--name", "run", "--results", str(tmp_path)],
        env={**os.environ, "FEDPERFIT_TEST": mark, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "markers" / "round2").exists():
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < deadline, "round 2 was not reached"
        time.sleep(0.2)
    driver.kill()
    driver.wait()
    # No process outlives the driver.
    deadline = time.monotonic() + 60
    while left_over(int(mark)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left_over(int(mark)) == {}
    assert read_run(tmp_path / "run").status == "running"
    record = resume("run", tmp_path, trust=True)
    assert (record.status, record.resumed) == ("completed", 1)
    assert_same_run(tmp_path / "run", uninterrupted)
    assert left_over(int(mark)) == {}
