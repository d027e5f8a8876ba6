"""Runs a real federation on this machine from the folder that `fedperfit deploy` writes, and can count its traffic."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil

from benchmarks.ports import free_port

_START_S = 120.0


def activated() -> dict[str, str]:
    """Return environment variables with this Python's commands on the PATH, where Flower looks up its own."""
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}


class Federation:
    """SuperLink and SuperNodes, started by their scripts in separate processes."""

    def __init__(self, folder: Path, port: int) -> None:
        """Use a deployed folder whose server listens on this port of 127.0.0.1."""
        self.folder = folder
        self.port = port
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Federation":
        """Start the server."""
        self.start("server", self.folder / "server" / "start.sh")
        deadline = time.monotonic() + _START_S
        while not _listens(self.port):
            if self.started["server"].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {self.log('server')}")
            time.sleep(0.2)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process."""
        for name in reversed(list(self.started)):
            self.end(name)

    def start(self, name: str, script: Path) -> None:
        """Start a script; its output goes to `<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.started[name] = subprocess.Popen(
                [script],
                env=activated(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_nodes(self) -> None:
        """Start every device that has a folder."""
        for node in sorted((self.folder / "nodes").iterdir(), key=lambda path: int(path.name)):
            self.start(f"node{node.name}", node / "start.sh")

    def submit(self) -> None:
        """Submit a run; `wait` waits for its end."""
        self.start("run", self.folder / "server" / "run.sh")

    def wait(self, seconds: float) -> Path:
        """Wait for the newest record's run to end and return the record.

        Raises:
            TimeoutError: The run did not end in time.
            RuntimeError: The script that submits the run failed.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if (record := self.record()) and '"status": "running"' not in (record / "run.json").read_text():
                return record
            if self.started["run"].poll() not in (None, 0):
                raise RuntimeError(self.log("run"))
            time.sleep(0.5)
        raise TimeoutError(f"{self.log('run')}\n{self.log('server')}")

    def record(self) -> Path | None:
        """Return the newest run record."""
        records = sorted((self.folder / "server" / "results").glob("*/run.json"), key=lambda path: path.stat().st_mtime)
        return records[-1].parent if records else None

    def log(self, name: str) -> str:
        """Return what a script has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def kill_supernode(self, partition: int) -> None:
        """Kill a device's SuperNode and its children, but not the script that restarts it."""
        for child in psutil.Process(self.started[f"node{partition}"].pid).children(recursive=True):
            child.kill()

    def end(self, name: str) -> None:
        """End a script and everything it started."""
        process = self.started.pop(name)
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for ended in children:
            ended.kill()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class CountingProxy:
    """Forwards TCP connections and counts the bytes in each direction."""

    def __init__(self, target: int) -> None:
        """Listen on a free port and forward to the port `target`."""
        self.port = free_port()
        self.up = self.down = 0
        """Bytes from and to the connecting side."""
        self._target = target
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self._serve, args=(ready,), daemon=True).start()
        ready.wait()

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._connect, "127.0.0.1", self.port))
        ready.set()
        self._loop.run_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._pump(reader, target_writer, "up"), self._pump(target_reader, writer, "down"))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        try:
            while data := await reader.read(1 << 16):
                setattr(self, way, getattr(self, way) + len(data))
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one side has closed, so the other is closed too
        writer.close()
