"""A real federation on loopback: Flower's SuperLink with TLS, four SuperNodes with keys, one user each."""

import importlib.metadata
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.federation import Federation, activated
from benchmarks.ports import free_port
from fl_server.record.schema import read_run
from simulations.federation.deploy import deploy, write_certificates, write_key
from simulations.run.simulate import simulate
from tests.conftest import tiny_config

pytestmark = pytest.mark.slow
# Flower starts a process for every message, which takes seconds, so there are few.
_DEVICES = ["users.collective=3", "users.target=1", "cohort=3", "faults.client_seconds=240", "faults.retries=0"]
FOUR = [*_DEVICES, "rounds=1", "secure.aggregation=true", "wire.down=int8"]
# With a top-k up, what a device leaves out in the first round waits in its store for the second.
CODED = [*_DEVICES, "rounds=2", "wire.up=top-k 0.2", "wire.down=int8", "server.optimizer=nesterov"]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Federation]:
    port = free_port()
    folder = deploy(tiny_config(*FOUR), tmp_path_factory.mktemp("deployed") / "four", "127.0.0.1", port)
    with Federation(folder, port) as started:
        started.start_nodes()
        yield started


def supernode(port: int, authority: Path, key: Path) -> str:
    words = ["--root-certificates", authority, "--auth-supernode-private-key", key, "--port", free_port()]
    command = [Path(sys.executable).parent / "flower-supernode", "--superlink", f"127.0.0.1:{port}", *words]
    # Into a file, since the SuperNode's children would hold a pipe open after it ends.
    output = key.with_suffix(".log")
    with output.open("wb") as log:
        done = subprocess.run(list(map(str, command)), env=activated(), stdout=log, stderr=log, timeout=60, check=False)
    assert done.returncode != 0
    return output.read_text()


def check_equals_simulation(record: Path, words: list[str], tmp_path: Path) -> Path:
    """Compare a federation's record with a simulation of the same config, bit for bit; return the simulation's."""
    assert read_run(record).status == "completed", read_run(record).error
    simulate(tiny_config(*words), "simulated", tmp_path)
    simulated = tmp_path / "simulated"
    assert (record / "shared.safetensors").read_bytes() == (simulated / "shared.safetensors").read_bytes()
    ours, theirs = read_run(record), read_run(simulated)
    assert (ours.metrics, ours.metrics_collective, ours.metrics_base) == (
        theirs.metrics,
        theirs.metrics_collective,
        theirs.metrics_base,
    )
    assert (ours.bytes.payload_up, ours.bytes.payload_down) == (theirs.bytes.payload_up, theirs.bytes.payload_down)
    return simulated


def events(federation: Federation) -> str:
    path = (federation.record() or federation.folder) / "events.jsonl"
    return path.read_text() if path.is_file() else ""


def test_a_run_equals_the_simulation_although_a_node_was_killed(federation: Federation, tmp_path: Path) -> None:
    federation.submit()
    deadline = time.monotonic() + 500  # masks take four messages to every device, each a process
    while '"phase": "personalize"' not in events(federation):
        assert time.monotonic() < deadline, federation.log("run") + federation.log("server")
        time.sleep(0.2)
    federation.kill_supernode(3)  # the target user's
    record = federation.wait(300)
    simulated = check_equals_simulation(record, FOUR, tmp_path)
    # Private tensors are only on their user's device, with the same bits as in the simulation.
    (kept,) = (federation.folder / "nodes" / "3" / "store").glob("run-*/private/3.safetensors")
    assert kept.read_bytes() == (simulated / "private" / "3.safetensors").read_bytes()
    assert list((record / "private").iterdir()) == []
    assert not (record / "predictions.jsonl").exists() or not (record / "predictions.jsonl").read_text()
    assert read_run(record).users.source == "devices"


def test_coded_updates_and_a_server_optimizer_equal_the_simulation(tmp_path: Path, cache: Path) -> None:
    port = free_port()
    folder = deploy(tiny_config(*CODED), tmp_path / "coded", "127.0.0.1", port)
    with Federation(folder, port) as started:
        started.start_nodes()
        started.submit()
        record = started.wait(500)
        check_equals_simulation(record, CODED, tmp_path)
        assert (read_run(record).bytes.codec_up, read_run(record).bytes.codec_down) == ("top-k", "int8")


def test_an_unknown_key_and_a_wrong_certificate_are_refused(federation: Federation, tmp_path: Path) -> None:
    write_key(tmp_path / "stranger.key")
    write_certificates(tmp_path, "127.0.0.1")
    node = federation.folder / "nodes" / "0"
    assert "CERTIFICATE_VERIFY_FAILED" in supernode(federation.port, tmp_path / "ca.crt", node / "node.key")
    refused = supernode(federation.port, node / "ca.crt", tmp_path / "stranger.key")
    assert "Failed to activate SuperNode" in refused


def test_a_server_whose_certificate_has_expired_is_refused(tmp_path: Path) -> None:
    write_certificates(tmp_path, "127.0.0.1", days=-1)
    write_key(tmp_path / "node.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def shake_hands() -> None:
            while True:
                try:
                    context.wrap_socket(listening.accept()[0], server_side=True).close()
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=shake_hands, daemon=True).start()
        refused = supernode(listening.getsockname()[1], tmp_path / "ca.crt", tmp_path / "node.key")
    assert "certificate has expired" in refused


def test_a_node_with_another_tasks_data_is_refused_by_name(federation: Federation) -> None:
    user_file = federation.folder / "nodes" / "1" / "user" / "user.json"
    before = user_file.read_text()
    user_file.write_text(json.dumps({"task": "product_rating", "partition": 1}))
    try:
        first = federation.record()
        federation.submit()
        deadline = time.monotonic() + 120
        while federation.record() == first:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        record = federation.wait(120)
        assert federation.started["run"].wait(60) != 0
    finally:
        user_file.write_text(before)
    run = read_run(record)
    assert run.status == "failed"
    assert run.error is not None
    assert "partition 1: its folder holds data of task product_rating, expected task movie_tagging" in run.error


def status(port: int, path: str) -> int:
    """Ask a path of the server as somebody who checks no certificate and normalises no path."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain, context.wrap_socket(plain) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        return int(connection.recv(64).split()[1])


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_behind_the_proxy_devices_reach_the_server_and_operators_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    folder = deploy(tiny_config(*FOUR), tmp_path / "proxied", "127.0.0.1", port)
    server = folder / "server"
    monkeypatch.setenv("SUPERLINK_HOST", "127.0.0.1")
    monkeypatch.setenv("SUPERLINK_PORT", str(port - 1))
    monkeypatch.setenv("SUPERLINK_ADDRESS", f"127.0.0.1:{port - 1}")
    proxy = subprocess.Popen(["nginx", "-p", str(server), "-c", "proxy.conf", "-g", "daemon off;"])
    try:
        with Federation(folder, port - 1) as started:
            for path in (
                "/v1/control/",
                "/v1/runtime/",
                "/docs",
                "/openapi.json",
                "/health",
                "/v1/fleet/../control/",
                "/v1/fleet/%2e%2e/control/",
                "//v1/control/",
                "/v1/fleet",
                "/v1/control/list-runs%3f/../../fleet/x",
            ):
                assert status(port, path) in (301, 403), path
            assert status(port, "/v1/fleet/register-node") not in (301, 403, 502)
            # Devices, with the certificate for the server's name, take part through the proxy.
            started.start_nodes()
            started.submit()
            assert read_run(started.wait(600)).status == "completed"
    finally:
        proxy.terminate()
        proxy.wait()


def test_the_containers_files_fit_together(tmp_path: Path) -> None:
    server = deploy(tiny_config(*FOUR), tmp_path / "out", "example.org", 9443) / "server"
    compose = yaml.safe_load((server / "compose.yaml").read_text())
    superlink, proxy = compose["services"]["superlink"], compose["services"]["proxy"]
    # Only the proxy's port is published; the SuperLink listens on the loopback of a network that both share.
    assert superlink["ports"] == ["9443:9443"]
    assert superlink["environment"]["SUPERLINK_HOST"] == "127.0.0.1"
    assert proxy["network_mode"] == "service:superlink"
    assert proxy["command"][4] in {path.name for path in server.iterdir()}
    assert "listen 0.0.0.0:9443 ssl;" in (server / "container-proxy.conf").read_text()
    assert (
        f"https://127.0.0.1:{superlink['environment']['SUPERLINK_PORT']};"
        in (server / "container-proxy.conf").read_text()
    )
    lines = [line for line in (server / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    assert [line.split()[0] for line in lines] == ["FROM", "COPY", "RUN"]
    # Not from an index, where anybody could register the name.
    assert f"fedperfit-{importlib.metadata.version('fedperfit')}-*.whl" in lines[1]
    assert superlink["user"] == proxy["user"] == f"{os.getuid()}:{os.getgid()}"
