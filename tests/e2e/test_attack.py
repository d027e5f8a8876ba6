"""Another user of the machine attacks a running simulation on Ray: it must get nothing."""

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
import pytest

from configs.load import load_config
from fl_server.record.schema import read_run
from simulations.engines import ray_engine
from simulations.run.simulate import simulate
from tests.e2e.test_faults import ROOT, faulty

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can act as a second user"),
]
NOBODY = 65534
CALLS = (
    "CoreWorkerService/PushTask",
    "NodeManagerService/RequestWorkerLease",
    "ObjectManagerService/Push",
    "InternalKVGcsService/InternalKVKeys",
    "JobInfoGcsService/AddJob",
)
"""What runs code, reads objects, or reads the cluster's state."""


def have_own_network(children: list[psutil.Process]) -> bool:
    for child in children:
        # Another may end meanwhile, or have ended and not yet been waited for: a raylet of an earlier test.
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            if child.name() == "raylet":
                return Path(f"/proc/{child.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    raise AssertionError("Ray is not running")


def ports_of_children() -> dict[int, str]:
    """Return the TCP ports on which this process's descendants listen, with the names of the listeners."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        place = Path(f"/proc/{process.pid}")
        with contextlib.suppress(OSError, psutil.Error):  # it may end meanwhile
            sockets = {os.readlink(file) for file in (place / "fd").iterdir()}  # noqa: PTH115
            for table in ("tcp", "tcp6"):
                for row in (place / "net" / table).read_text().splitlines()[1:]:
                    cells = row.split()
                    if cells[3] == "0A" and f"socket:[{cells[9]}]" in sockets:
                        found[int(cells[1].rpartition(":")[2], 16)] = process.name()
    return found


def as_nobody(attack: Callable[[], str]) -> str:
    """Return what an attack finds in a process of another user which does not know Ray's token."""
    # Loads a codec that connecting needs: the other user may not read this interpreter's folder.
    "localhost".encode("idna")
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            found = attack()
        except BaseException as error:  # it must not go on as a second pytest
            found = repr(error)
        os.write(writing, found.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


def try_ports(ports: dict[int, str]) -> str:
    answers = []
    for port, owner in ports.items():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                spoken = connection.recv(64)
        except OSError:
            answers.append(f"{owner}: closed")
            continue
        if spoken.startswith(b"HTTP"):
            answers.append(f"{owner}: {spoken.split()[1].decode()}")
            continue
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            for call in CALLS:
                for metadata in ([], [("authorization", "Bearer " + "0" * 64)]):
                    try:
                        channel.unary_unary(f"/ray.rpc.{call}")(b"", timeout=5, metadata=metadata)
                        answers.append(f"{owner}: {call} answered")
                    except grpc.RpcError as error:
                        answers.append(f"{owner}: {error.code().name}")
    return "\n".join(answers)


def read_secrets(pids: list[int]) -> str:
    read = []
    for pid in pids:
        for secret in ("environ", "mem", "cwd/pyproject.toml"):
            try:
                with Path(f"/proc/{pid}", secret).open("rb") as file:
                    read.append(f"{secret}: {file.read(1)!r}")
            except OSError:
                continue
    return "\n".join(read)


@pytest.mark.parametrize("alone", [True, False])
def test_another_user_gets_nothing(alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not alone:  # as on a machine that forbids network namespaces
        monkeypatch.setattr(ray_engine, "leave_network", lambda: None)
    toml, *words = faulty(tmp_path, "pause@round2")
    seen: list[str] = []

    def attack(_folder: Path) -> None:
        if seen or not (tmp_path / "markers" / "round2").exists():
            return
        children = psutil.Process().children(recursive=True)
        if alone and not have_own_network(children):
            pytest.skip("this machine forbids network namespaces")
        ports = ports_of_children()
        assert {"gcs_server", "raylet"} <= set(ports.values())
        seen.append(as_nobody(lambda: try_ports(ports)))
        seen.append(as_nobody(lambda: read_secrets([child.pid for child in children])))

    simulate(load_config(Path(toml), words), "run", tmp_path, import_path=[str(ROOT)], on_progress=attack)
    assert read_run(tmp_path / "run").status == "completed"
    answers, secrets = seen
    assert secrets == ""
    outcomes = {line.rpartition(": ")[2] for line in answers.splitlines()}
    if alone:
        assert outcomes == {"closed"}
    else:
        # UNIMPLEMENTED: another service's call. 401: unauthorised.
        assert outcomes == {"UNAUTHENTICATED", "UNIMPLEMENTED", "401"}
        for owner in ("gcs_server", "raylet"):
            assert f"{owner}: UNAUTHENTICATED" in answers
