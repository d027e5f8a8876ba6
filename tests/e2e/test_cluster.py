"""A Ray cluster of three nodes on this machine: a head without clients and two nodes with clients."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from benchmarks.ports import free_port
from configs.errors import InputError
from configs.load import load_config
from fl_server.record.schema import read_run
from simulations.run.simulate import simulate
from tests.e2e.test_faults import RAY, ROOT, errors_of, faulty
from tests.same import assert_same_run

pytestmark = pytest.mark.slow
PARTITIONS = ["partitions.gpus=1", "partitions.per_client=0.5"]


class Cluster:
    """Starts each node with Ray's own command; a node's processes share a session, so they can be killed together."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._path = folder / "ray.log"
        self._log = self._path.open("wb")
        # A socket's path is limited to 107 bytes.
        self._scratch = tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True)
        head = ["--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
        self.start(*head, "--num-cpus=0", f"--temp-dir={self._scratch.name}")
        for _ in range(2):
            self.start(f"--address={self.address}", "--num-cpus=2", "--num-gpus=1")

    def start(self, *words: str, **environment: str) -> None:
        command = [str(Path(sys.executable).parent / "ray"), "start", *words, "--disable-usage-stats", "--block"]
        started = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | environment
        node = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=started, start_new_session=True)
        self.nodes.append(node)
        up = self._path.read_text().count("Ray runtime started") + 1
        deadline = time.monotonic() + 90
        while self._path.read_text().count("Ray runtime started") < up:
            assert node.poll() is None, self._path.read_text()
            assert time.monotonic() < deadline, "a node did not start"
            time.sleep(0.2)

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        if node.poll() is None:
            for child in psutil.Process(node.pid).children(recursive=True):
                child.kill()
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def close(self) -> None:
        for node in reversed(self.nodes):
            self.kill(node)
        self._log.close()
        self._scratch.cleanup()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def inline_run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("inline_run")
    toml, *words = faulty(folder)
    simulate(load_config(toml, [*words, "engine=inline"]), "run", folder, import_path=[str(ROOT)])
    return folder / "run"


def nodes_of(run: Path) -> set[str]:
    partitions = pq.read_table(run / "clients.parquet")["partition"].to_pylist()
    assert {name.rpartition("/")[2] for name in partitions} <= {"gpu0:0", "gpu0:1"}
    return {name.partition("/")[0] for name in partitions}


def test_clients_run_on_both_nodes_and_give_the_same_bits(cluster: Cluster, inline_run: Path, tmp_path: Path) -> None:
    toml, *words = faulty(tmp_path)
    config = load_config(toml, [*words, *PARTITIONS, f"ray.address={cluster.address}"])
    simulate(config, "run", tmp_path, import_path=[str(ROOT)])
    assert len(nodes_of(tmp_path / "run")) == 2
    assert_same_run(tmp_path / "run", inline_run)
    # The run must not end the cluster.
    assert all(node.poll() is None for node in cluster.nodes)


def test_a_node_with_other_packages_is_refused_by_name(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "site" / "peft-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.0.1\n")
    cluster.start(f"--address={cluster.address}", "--num-cpus=1", PYTHONPATH=str(tmp_path / "site"))
    try:
        with pytest.raises(InputError, match=r"node .* \([0-9a-f]{8}\): peft is 0\.0\.1 there"):
            simulate(load_config(None, [*RAY, f"ray.address={cluster.address}"]), "run", tmp_path)
        assert not (tmp_path / "run").exists()
    finally:
        cluster.kill(cluster.nodes.pop())


def test_a_run_survives_a_node_killed_in_a_round(
    cluster: Cluster, inline_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml, *words = faulty(tmp_path, "pause@round2")
    paused = tmp_path / "markers" / "round2"
    killed: list[int] = []

    def kill_its_node(_folder: Path) -> None:
        if not killed and paused.exists() and paused.read_text():
            above = {parent.pid for parent in psutil.Process(int(paused.read_text())).parents()}
            node = next(node for node in cluster.nodes if node.pid in above)
            killed.append(node.pid)
            cluster.kill(node)

    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    simulate(
        load_config(toml, [*words, *PARTITIONS]), "run", tmp_path, import_path=[str(ROOT)], on_progress=kill_its_node
    )
    assert killed
    assert_same_run(tmp_path / "run", inline_run)
    assert (read_run(tmp_path / "run").status, read_run(tmp_path / "run").resumed) == ("completed", 0)
    assert ("train", 2) in {(error["phase"], error["round"]) for error in errors_of(tmp_path / "run")}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "no cluster answers"),
        ("ray://127.0.0.1:9", "expected host:port"),
        ("somewhere", "expected host:port"),
    ],
)
def test_an_address_without_a_cluster_is_refused(address: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"ray.address={address}: .*{message}"):
        simulate(load_config(None, [*RAY, f"ray.address={address}"]), "run", tmp_path)
    assert not (tmp_path / "run").exists()
