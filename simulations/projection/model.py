"""`fedperfit project`: what a method would cost a server with far more users than anybody simulates.

A linear model in the cohort's size, measured in one or more runs. With runs of several sizes it is fitted to them; with
one size a message's size is taken as constant and the server's time as proportional to the cohort.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from configs.environment import DevicesConfig
from configs.errors import InputError
from configs.load import load_config, read_resolved
from fl_server.record.schema import read_run
from fl_server.simulated_devices import DeviceTask, SimulatedDevices

_PLAYED, _LARGEST = 20, 200
"""Rounds that the device model plays, and the largest cohort it plays them with."""
_QUANTITIES = ("up_elements", "up_rest", "down_elements", "down_rest")


@dataclass(frozen=True)
class Scale:
    """What is asked about."""

    users: int
    participation: float
    """Share of the users in a round."""
    rounds: int
    bytes_per_element: float
    """4: fp32, 2: bf16 on the wire, …"""
    devices: str = ""
    """A file in `configs/devices/` by name, for wall-clock time; empty: none is told."""

    @property
    def cohort(self) -> int:
        """Users in a round."""
        return max(1, round(self.users * self.participation))

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InputError: Names the field.
        """
        for field, allowed, expected in (
            ("users", 1 <= self.users <= 10**12, "1 to 1e12"),
            ("participation", 0 < self.participation <= 1, "a share above 0, at most 1"),
            ("rounds", self.rounds >= 1, "at least 1"),
            ("bytes_per_element", 0 < self.bytes_per_element <= 8, "a number above 0, at most 8"),
        ):
            if not allowed:
                raise InputError(f"expected {expected}", field=field, value=getattr(self, field))


@dataclass(frozen=True)
class MeasuredRun:
    """Stage 1 of one run, by round and client."""

    cohort: float
    users: int
    up_elements: float
    """Numbers in a client's message to the server."""
    up_rest: float
    """Bytes of that message beyond them."""
    down_elements: float
    down_rest: float
    opening_elements: float
    """Numbers in a user's messages before the first round, both ways."""
    opening_rest: float
    server_s: list[float]
    """The server's seconds of each round, checking and averaging; empty where the record does not know."""
    server_rss_bytes: float | None
    steps: float
    """Optimiser steps of a client in a round."""


def measure(folder: Path) -> MeasuredRun:
    """Read a completed run.

    Raises:
        InputError: It did not complete, or had no stage 1.
    """
    record = read_run(folder)
    if record.status != "completed":
        raise InputError(f"{folder}: this run did not complete ({record.status})")
    ledger = pd.read_parquet(folder / "ledger.parquet")
    train = ledger[(ledger.phase == "train") & (ledger["round"] > 0)]
    if train.empty:
        raise InputError(f"{folder}: {record.method} sends nothing in stage 1, so there is nothing to project")
    rounds = pd.read_parquet(folder / "rounds.parquet").reindex(
        columns=["round", "cohort", "server_s", "server_rss_bytes"]
    )
    rounds = rounds[rounds["round"] > 0]
    found: dict[str, float] = {}
    for direction, own in train.groupby("direction"):
        messages = int((own.message_bytes > 0).sum())
        found[f"{direction}_elements"] = own.elements.sum() / messages
        found[f"{direction}_rest"] = (own.message_bytes.sum() - own.payload_bytes.sum()) / messages
    opening = ledger[(ledger.phase == "train") & (ledger["round"] == 0)]
    clients = pd.read_parquet(folder / "clients.parquet", columns=["round", "phase", "steps"])
    own_steps = clients[(clients.phase == "train") & (clients["round"] > 0)].steps
    return MeasuredRun(
        cohort=float(rounds.cohort.mean()),
        users=record.users.collective,
        **found,
        opening_elements=float(opening.elements.sum()) / record.users.collective,
        opening_rest=float(opening.message_bytes.sum() - opening.payload_bytes.sum()) / record.users.collective,
        server_s=rounds.server_s.dropna().tolist(),
        server_rss_bytes=None if rounds.server_rss_bytes.isna().all() else float(rounds.server_rss_bytes.max()),
        steps=float(own_steps.mean()),
    )


def project(folders: Sequence[Path], scale: Scale) -> list[dict[str, Any]]:
    """Extrapolate, method by method.

    Args:
        folders: Completed run records; several of one method, of several sizes, are fitted together.
        scale: What is asked about.

    Returns:
        One row a method: bytes and seconds a round and in all, memory, and what was taken for granted.

    Raises:
        InputError: A run will not do, or the scale cannot be meant.
    """
    scale.check()
    groups: dict[tuple[str, str], list[Path]] = {}
    for folder in folders:
        groups.setdefault((read_run(folder).method, _setting(folder)), []).append(folder)
    names = [method for method, _ in groups]
    return [
        _project(method if names.count(method) == 1 else f"{method}, {own[0].name}", own, scale)
        for (method, _), own in groups.items()
    ]


def _project(method: str, folders: list[Path], scale: Scale) -> dict[str, Any]:
    runs = [measure(folder) for folder in folders]
    several = len({run.cohort for run in runs}) > 1
    cohort = scale.cohort

    def at(key: str) -> float:
        values = [getattr(run, key) for run in runs]
        return _line([run.cohort for run in runs], values, cohort) if several else float(np.mean(values))

    quantity = {key: at(key) for key in _QUANTITIES}
    per_client = {
        way: quantity[f"{way}_elements"] * scale.bytes_per_element + quantity[f"{way}_rest"] for way in ("up", "down")
    }
    opening = float(np.mean([run.opening_elements * scale.bytes_per_element + run.opening_rest for run in runs]))
    seconds, error = _server_seconds(runs, cohort)
    memory = _server_memory([run for run in runs if run.server_rss_bytes is not None], scale.users)
    steps = float(np.mean([run.steps for run in runs]))
    tensors = {way: quantity[f"{way}_elements"] * scale.bytes_per_element for way in ("up", "down")}
    device_s = device_seconds(scale, tensors, steps) if scale.devices else None
    round_s = None if device_s is None else device_s + (seconds or 0.0)
    return {
        "method": method,
        "runs": [str(folder) for folder in folders],
        "cohort": cohort,
        "ingress_round_bytes": cohort * per_client["up"],
        "egress_round_bytes": cohort * per_client["down"],
        "client_round_bytes": sum(per_client.values()),
        "total_bytes": scale.rounds * cohort * sum(per_client.values()) + scale.users * opening,
        "opening_bytes": scale.users * opening,
        "server_round_s": seconds,
        "server_round_s_error": error,
        "server_memory_bytes": memory,
        "round_s": round_s,
        "hours": None if round_s is None else scale.rounds * round_s / 3600,
        "assumptions": _assumptions(scale, runs, bool(opening), seconds, memory),
        "measured": [asdict(run) for run in runs],
    }


def _setting(folder: Path) -> str:
    """What makes runs of one method, at whatever size, one line: all that decides what is sent and trained."""
    config = read_resolved(folder / "config.toml").model_dump(mode="json")
    keys = ("method", "backbone", "sites", "positions", "rank", "joint_private_init", "settings", "local")
    return json.dumps({key: config[key] for key in keys}, sort_keys=True)


def _line(x: list[float], y: list[float], where: float) -> float:
    """The least-squares line's value, and no less than 0."""
    slope, start = np.polyfit(x, y, 1)
    return max(0.0, float(start + slope * where))


def _server_seconds(runs: list[MeasuredRun], cohort: int) -> tuple[float | None, float | None]:
    """The server's seconds of a round and their standard error, by regression over the rounds of all runs."""
    sizes = np.array([run.cohort for run in runs for _ in run.server_s])
    seconds = np.array([value for run in runs for value in run.server_s])
    if not len(seconds):
        return None, None
    # One size says nothing of a constant part: then the line goes through the origin.
    design = np.stack([sizes, np.ones_like(sizes)], axis=1) if len(set(sizes)) > 1 else sizes[:, None]
    where = np.array([cohort, 1.0][: design.shape[1]])
    solution, *_ = np.linalg.lstsq(design, seconds, rcond=None)
    free = len(seconds) - len(solution)
    error = None
    if free > 0:
        spread = ((seconds - design @ solution) ** 2).sum() / free
        error = float(np.sqrt(spread * where @ np.linalg.inv(design.T @ design) @ where))
    # A line that falls is noise.
    return (None, None) if solution[0] < 0 else (max(0.0, float(where @ solution)), error)


def _server_memory(runs: list[MeasuredRun], users: int) -> float | None:
    sizes, memory = [float(run.users) for run in runs], [run.server_rss_bytes or 0.0 for run in runs]
    if len(set(sizes)) < 2 or np.polyfit(sizes, memory, 1)[0] < 0:
        return None
    return _line(sizes, memory, users)


def device_seconds(scale: Scale, tensors: dict[str, float], steps: float) -> float:
    """Return a round's mean time by the virtual clock, from the first download to the last reply that is waited for.

    Args:
        scale: Names the devices.
        tensors: Bytes of the tensors in a client's message, by `up` and `down`.
        steps: Optimiser steps of a client.
    """
    config: DevicesConfig = load_config(None, [f"devices.preset={scale.devices}"]).devices
    devices = SimulatedDevices(config, 0)
    turn = {"bytes_down": round(tensors["down"]), "bytes_up": round(tensors["up"]), "steps": round(steps)}
    # A few hundred devices have the same slowest tenth as a few thousand.
    cohort = min(scale.cohort, _LARGEST)
    asked = devices.cohort_size(cohort)
    seconds = []
    for number in range(1, _PLAYED + 1):
        # Other users each round: who takes part is one of very many.
        present = devices.available(number, range(number * 4 * asked, (number + 1) * 4 * asked))[:asked]
        seconds.append(devices.close(number, (DeviceTask(user, **turn) for user in present), cohort).seconds or 0.0)
    return float(np.mean(seconds))


def _assumptions(
    scale: Scale, runs: list[MeasuredRun], opening: bool, seconds: float | None, memory: float | None
) -> list[str]:
    sizes = sorted({run.cohort for run in runs})
    measured = f"measured with cohorts of {', '.join(f'{size:g}' for size in sizes)}"
    lines = [
        f"{scale.users:,} users, {scale.cohort:,} of them in a round, {scale.rounds:,} rounds of stage 1; "
        "personalisation sends one download to each user beyond these",
        f"a number takes {scale.bytes_per_element:g} bytes on the wire; the rest of a message is as measured; TLS, "
        "polling and repeats after faults are not in it",
        f"{measured}: the line is drawn out {scale.cohort / sizes[-1]:,.0f} times as far",
        "every user has the same number of steps as those measured have on average",
    ]
    if len(sizes) > 1:
        lines.append("message sizes and the server's seconds follow a line in the cohort's size, fitted to the runs")
    else:
        lines.append(
            "one size was measured: messages are taken to be as large for any cohort (FLoRA's download is not), the "
            "server's seconds proportional to it"
        )
    if opening:
        lines.append("every user does the opening before the first round once")
    if seconds is None:
        lines.append("the server's seconds are not in these records, or do not grow with the cohort: noise")
    if memory is None:
        lines.append("the server's memory needs runs with two numbers of users, so far apart that it grows")
    else:
        lines.append("the server's memory follows a line in the number of users; small runs differ by noise alone")
    if scale.devices:
        played = f", played with {_LARGEST} in a round" if scale.cohort > _LARGEST else ""
        lines.append(f"devices are as configs/devices/{scale.devices}.toml says{played}; the server works after them")
    else:
        lines.append("no --devices, so no wall-clock time")
    return lines


def read_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the run records that run records and comparisons stand for.

    Raises:
        InputError: A folder is neither.
    """
    folders: list[Path] = []
    for path in paths:
        if (path / "compare.json").is_file():
            content = json.loads((path / "compare.json").read_text(encoding="utf-8"))
            folders += [(path / run["folder"]).resolve() for run in content["runs"]]
        elif (path / "run.json").is_file():
            folders.append(path)
        else:
            raise InputError(f"{path}: no run record and no comparison")
    return folders
