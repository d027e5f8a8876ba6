"""`flwr run .` in the checkout: the same clients, the same record, the same bits."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fl_server.record.schema import read_run
from simulations.run.simulate import simulate
from tests.conftest import TINY, tiny_config
from tests.same import assert_same_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Yield a home for Flower, then end the SuperLink that Flower keeps running in it."""
    yield tmp_path / "flwr"
    for process in psutil.process_iter():
        try:
            if process.environ().get("FLWR_HOME") == str(tmp_path / "flwr"):
                process.kill()
        except psutil.Error:
            continue


def flwr_run(home: Path, nodes: int, **run_config: str) -> subprocess.CompletedProcess[str]:
    quiet = ("FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION")
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    variables = {"PATH": path, "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0"}
    environment = {**os.environ, **variables, **dict.fromkeys(quiet, "1")}
    settings = " ".join(f'{key}="{value}"' for key, value in run_config.items())
    federation = f"num-supernodes={nodes} client-resources-num-cpus=1 init-args-num-cpus=2"
    command = [str(BIN / "flwr"), "run", ".", "--stream", "--federation-config", federation, "--run-config", settings]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)


def test_flwr_run_writes_the_same_record_as_simulate(home: Path, tmp_path: Path) -> None:
    toml = tmp_path / "tiny.toml"
    toml.write_text("rounds = 2\n")
    overrides = " ".join(word.replace('"', "'") for word in TINY if not word.startswith("engine"))
    results = tmp_path / "results"
    done = flwr_run(home, 9, config=str(toml), overrides=overrides, results=str(results))
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = results.glob("flower-*")
    assert read_run(folder).status == "completed", done.stdout
    assert (folder / "plots" / "quality.png").is_file()
    simulate(tiny_config(), "same", tmp_path)
    assert_same_run(folder, tmp_path / "same")


def test_a_number_of_supernodes_other_than_users_is_refused(home: Path, tmp_path: Path) -> None:
    toml = tmp_path / "tiny.toml"
    toml.write_text("rounds = 2\n")
    overrides = " ".join(word for word in TINY if not word.startswith("engine"))
    done = flwr_run(home, 4, config=str(toml), overrides=overrides, results=str(tmp_path / "results"))
    assert "9 users need 9 SuperNodes, but this federation has 4: flwr run ." in done.stdout + done.stderr
    assert not list((tmp_path / "results").glob("*"))
