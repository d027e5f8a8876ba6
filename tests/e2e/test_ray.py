"""Runs on Ray with SmolLM2, and Ctrl-C."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from fl_clients.backbone.builtin import fetch
from fl_server.record.schema import read_run
from simulations.engines.processes import MARK
from simulations.run.simulate import simulate
from tests.conftest import TINY, movie, tiny_config, write_lamp

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FEDPERFIT = [sys.executable, "-m", "fedperfit"]
RAY = [word for word in TINY if word != "engine=inline"]


def command(*words: str) -> list[str]:
    return [*FEDPERFIT, *words]


def left_over(mark_of: int) -> dict[int, str]:
    """Return the processes that a finished command left running, by id; they have its mark in their environment."""
    found = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if MARK in environment and environment.get("FEDPERFIT_TEST") == str(mark_of):
                found[process.pid] = f"{process.status()}: {' '.join(process.cmdline())}"
        except psutil.Error:
            continue
    return found


def listening(pid: int) -> set[str]:
    """Return the addresses a process listens on, with mapped IPv4 addresses as plain IPv4."""
    with contextlib.suppress(psutil.Error):
        connections = psutil.Process(pid).net_connections(kind="inet")
        return {item.laddr.ip.removeprefix("::ffff:") for item in connections if item.status == psutil.CONN_LISTEN}
    return set()


@pytest.mark.parametrize("method", ["perfit", "oppu"])  # the server's process loads different libraries
def test_ray_gives_the_same_bits_as_inline_on_simulated_partitions(method: str, tmp_path: Path) -> None:
    # With simulated devices, the order of replies must not depend on the length of Flower's random ids.
    world = [f"method={method}", "devices.preset=silos", "devices.over_selection=1"]
    if method == "oppu":
        # A device that is too late drops out after it was masked with the others.
        world += ["secure.aggregation=true", "devices.over_selection=0.3"]
    words = [*RAY, *world, "partitions.gpus=2", "partitions.per_client=0.5", "partitions.cpus=2"]
    environment = {**os.environ, "FEDPERFIT_TEST": str(os.getpid())}
    # The command runs in another folder than this process, so relative paths must be resolved.
    shutil.copytree(fetch("tiny"), tmp_path / "model")
    words.append("backbone=./model")
    # Beside a method of one's own, and in the working folder, lie files with the names of fedperfit's packages.
    (tmp_path / "strategies").mkdir()
    for intruder in ("configs.py", "fl_clients.py", "strategies/__init__.py"):
        (tmp_path / intruder).write_text("raise RuntimeError('the wrong one')")
    if method == "perfit":
        (tmp_path / "mine_method.py").write_text("from strategies.perfit import PerFit\n\nclass Mine(PerFit): ...\n")
        preset = (ROOT / "configs" / "methods" / "perfit.toml").read_text()
        (tmp_path / "mine.toml").write_text(preset.replace("strategies.perfit:PerFit", "mine_method:Mine"))
        words.append("method=mine.toml")
    done = subprocess.run(
        command("simulate", *words, "--name", "ray", "--results", str(tmp_path)),
        env={**environment, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert left_over(os.getpid()) == {}
    simulate(tiny_config(*world), "inline", tmp_path)
    for name in ("shared.safetensors", "predictions.jsonl", *(f"private/{n}.safetensors" for n in (6, 7, 8))):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "inline" / name).read_bytes(), name
    ray, inline = read_run(tmp_path / "ray"), read_run(tmp_path / "inline")
    assert (ray.metrics, ray.per_user) == (inline.metrics, inline.per_user)
    assert (ray.bytes.payload_up, ray.bytes.payload_down) == (inline.bytes.payload_up, inline.bytes.payload_down)
    partitions = set(pq.read_table(tmp_path / "ray" / "clients.parquet")["partition"].to_pylist())
    assert partitions <= {f"gpu{gpu}:{slot}" for gpu in (0, 1) for slot in (0, 1)}
    assert not (tmp_path / "ray" / "engine.log").exists()


@pytest.mark.parametrize(("number", "engine"), [(signal.SIGINT, "ray"), (signal.SIGTERM, "inline")])
def test_an_interrupt_ends_every_process_and_is_recorded_as_cancelled(
    number: signal.Signals, engine: str, tmp_path: Path
) -> None:
    mark = f"{os.getpid()}{int(number)}"
    environment = {**os.environ, "FEDPERFIT_TEST": mark}
    process = subprocess.Popen(
        command("simulate", *RAY, f"engine={engine}", "rounds=100000", "--name", "long", "--results", str(tmp_path)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    events = tmp_path / "long" / "events.jsonl"
    deadline = time.monotonic() + 120
    while not (events.is_file() and '"round", "round": 2' in events.read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "round 2 was not reached"
        time.sleep(0.2)
    assert {address for pid in left_over(int(mark)) for address in listening(pid)} <= {"127.0.0.1", "::1"}
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors == "fedperfit: cancelled\n"
    record = read_run(tmp_path / "long")
    assert record.status == "cancelled"
    # Everything recorded before the interrupt can be read.
    assert len(pq.read_table(tmp_path / "long" / "rounds.parquet")) >= 2
    assert (
        sum(pq.read_table(tmp_path / "long" / "ledger.parquet")["message_bytes"].to_pylist()) == record.bytes.total > 0
    )
    assert left_over(int(mark)) == {}


def test_smollm2_learns_the_collective_shift(tmp_path: Path) -> None:
    fetch("smollm2-135m")
    config = tiny_config(
        "backbone=smollm2-135m",
        "sites=[10,12]",
        "rank.shared=32",
        "rank.private=4",
        "rounds=2",
        "users.synthetic.history=8",
        "local.batch_size=8",
        "personal.epochs=1",
    )
    record = simulate(config, "smollm2", tmp_path)
    rounds = pq.read_table(tmp_path / "smollm2" / "rounds.parquet")["loss"].to_pylist()
    first = pq.read_table(tmp_path / "smollm2" / "clients.parquet")
    start = [row["loss_first"] for row in first.to_pylist() if row["phase"] == "train" and row["round"] == 1]
    assert rounds[-1] < sum(start) / len(start) - 0.5
    assert record.params.backbone == 134_515_008
    # At the demo's ranks, serialised bytes exceed payload bytes by at most 2 %.
    assert record.bytes.per_client_round_up < 1.02 * record.params.shared * 4


def test_a_failing_client_on_ray_fails_the_run_with_its_traceback(tmp_path: Path) -> None:
    source = write_lamp(
        tmp_path / "films",
        [movie(str(n), f"Film {n}.") for n in range(9)],
        [{"id": str(n), "output": "comedy"} for n in range(9)],
    )
    # At this learning rate the loss overflows.
    words = [*RAY, f"users.source={source}", "local.lr=1e38", "local.epochs=3", "local.clip=1e30"]
    done = subprocess.run(
        command("simulate", *words, "--name", "bad", "--results", str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stderr + done.stdout
    assert read_run(tmp_path / "bad").status == "failed"
    errors = [json.loads(line) for line in (tmp_path / "bad" / "errors.jsonl").read_text().splitlines()]
    assert errors
    assert all("Error" in error["traceback"] for error in errors)
