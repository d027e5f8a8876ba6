"""`fedperfit project`: what a method would cost a server with far more users than can be simulated.

The model is linear in the cohort size and needs one or more measured runs. It is fitted to runs of several sizes; with
one size, message sizes are assumed constant and the server's time proportional to the cohort.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.environment import DevicesConfig
from configs.errors import InputError
from configs.load import load_config
from fl_server.record.folder import RunFolder
from fl_server.simulated_devices import DeviceTask, SimulatedDevices
from simulations.projection.measured import MeasuredRun, measure, setting_of

MOST_USERS = 10**12
_PLAYED, _LARGEST = 20, 200
"""Rounds that the device model simulates, and the largest cohort it simulates."""
_QUANTITIES = (
    *(f"{way}_{part}" for way in ("up", "down") for part in ("elements", "coded", "rest")),
    *("change_bytes", "copy_bytes"),
)


@dataclass(frozen=True)
class Scale:
    """The federation to project to."""

    users: int
    participation: float
    """Share of the users in each round."""
    rounds: int
    bytes_per_element: float
    """Bytes of a number on the wire: 4 for fp32, 2 for bf16."""
    devices: str = ""
    """Name of a file in `configs/devices/`, for wall-clock time; empty: no time is estimated."""

    @property
    def cohort(self) -> int:
        """Users in a round."""
        return max(1, round(self.users * self.participation))

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            InputError: A value is out of range; `field` names it.
        """
        for field, allowed, expected in (
            ("users", 1 <= self.users <= MOST_USERS, "1 to 1e12"),
            ("participation", 0 < self.participation <= 1, "a share above 0, at most 1"),
            ("rounds", self.rounds >= 1, "at least 1"),
            ("bytes_per_element", 0 < self.bytes_per_element <= 8, "a number above 0, at most 8"),
        ):
            if not allowed:
                raise InputError(f"expected {expected}", field=field, value=getattr(self, field))


def project(folders: Sequence[Path], scale: Scale) -> list[dict[str, Any]]:
    """Extrapolate the cost of each method.

    Args:
        folders: Completed run records; runs of one method with different cohort sizes are fitted together.
        scale: The federation to project to.

    Returns:
        One row per method: bytes and seconds per round and in total, memory, and the assumptions.

    Raises:
        InputError: A run cannot be used, or a value of `scale` is out of range.
    """
    scale.check()
    groups: dict[tuple[str, str], list[Path]] = {}
    for folder in folders:
        groups.setdefault((RunFolder(folder).record.method, setting_of(folder)), []).append(folder)
    names = [method for method, _ in groups]
    return [
        _project(method if names.count(method) == 1 else f"{method}, {group[0].name}", group, scale)
        for (method, _), group in groups.items()
    ]


def _project(method: str, folders: list[Path], scale: Scale) -> dict[str, Any]:
    runs = [measure(folder) for folder in folders]
    several = len({run.cohort for run in runs}) > 1
    cohort = scale.cohort

    def at(key: str) -> float:
        values = [getattr(run, key) for run in runs]
        return _line([run.cohort for run in runs], values, cohort) if several else float(np.mean(values))

    quantity = {key: at(key) for key in _QUANTITIES}
    tensors = {
        way: quantity[f"{way}_elements"] * scale.bytes_per_element + quantity[f"{way}_coded"] for way in ("up", "down")
    }
    tensors["down"] += missed_bytes(scale, quantity["change_bytes"], quantity["copy_bytes"], runs[0].changes_from)
    per_client = {way: tensors[way] + quantity[f"{way}_rest"] for way in ("up", "down")}
    opening = float(np.mean([run.opening_elements * scale.bytes_per_element + run.opening_rest for run in runs]))
    seconds, error = _server_seconds(runs, cohort)
    memory = _server_memory([run for run in runs if run.server_rss_bytes is not None], scale.users)
    steps = float(np.mean([run.steps for run in runs]))
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


def missed_bytes(scale: Scale, change: float, copy: float, known: int) -> float:
    """Return the mean bytes of a client's coded download, when clients are drawn independently in every round.

    In round t a client that took part k rounds ago lacks k changes, and one that never did t − `known`. It gets them,
    or a copy if that is shorter.

    Args:
        scale: The federation.
        change: Bytes of one round's change; 0: nothing of this kind is sent.
        copy: Bytes of a copy.
        known: The version that everybody knows.
    """
    if not change:
        return 0.0
    p = scale.participation
    # Beyond this many changes a copy is shorter, whenever the client was there last.
    longest = min(int(copy / change) + 1, scale.rounds)
    rounds = np.arange(1, longest + 1)
    lengths = np.minimum(rounds * change, copy)
    took_part = p * (1 - p) ** (rounds - 1)
    total = 0.0
    for t in range(1, longest + 1):
        before = float((took_part * lengths)[: t - 1].sum())
        total += before + (1 - p) ** (t - 1) * min((t - known) * change, copy)
    later = float((took_part * lengths).sum()) + (1 - p) ** longest * copy
    return (total + (scale.rounds - longest) * later) / scale.rounds


def _line(x: list[float], y: list[float], where: float) -> float:
    """Return the value of the least-squares line at `where`, at least 0."""
    slope, start = np.polyfit(x, y, 1)
    return max(0.0, float(start + slope * where))


def _server_seconds(runs: list[MeasuredRun], cohort: int) -> tuple[float | None, float | None]:
    """Return the server's seconds per round and their standard error, by regression over the rounds of all runs."""
    sizes = np.array([run.cohort for run in runs for _ in run.server_s])
    seconds = np.array([value for run in runs for value in run.server_s])
    if not len(seconds):
        return None, None
    # One size cannot determine a constant part, so the line goes through the origin.
    design = np.stack([sizes, np.ones_like(sizes)], axis=1) if len(set(sizes)) > 1 else sizes[:, None]
    where = np.array([cohort, 1.0][: design.shape[1]])
    solution, *_ = np.linalg.lstsq(design, seconds, rcond=None)
    free = len(seconds) - len(solution)
    error = None
    if free > 0:
        spread = ((seconds - design @ solution) ** 2).sum() / free
        error = float(np.sqrt(spread * where @ np.linalg.inv(design.T @ design) @ where))
    # A falling line is noise.
    return (None, None) if solution[0] < 0 else (max(0.0, float(where @ solution)), error)


def _server_memory(runs: list[MeasuredRun], users: int) -> float | None:
    sizes, memory = [float(run.users) for run in runs], [run.server_rss_bytes or 0.0 for run in runs]
    if len(set(sizes)) < 2 or np.polyfit(sizes, memory, 1)[0] < 0:
        return None
    return _line(sizes, memory, users)


def device_seconds(scale: Scale, tensors: dict[str, float], steps: float) -> float:
    """Return the mean simulated seconds of a round, from the first download to the last reply the server waits for.

    Args:
        scale: The federation, with `devices`.
        tensors: Bytes of the tensors in a client's message, for `up` and `down`.
        steps: Optimiser steps of a client in a round.
    """
    config: DevicesConfig = load_config(None, [f"devices.preset={scale.devices}"]).devices
    devices = SimulatedDevices(config, 0)
    task = {"bytes_down": round(tensors["down"]), "bytes_up": round(tensors["up"]), "steps": round(steps)}
    # The slowest tenth of a few hundred devices is like that of a few thousand.
    cohort = min(scale.cohort, _LARGEST)
    sampled = devices.cohort_size(cohort)
    seconds = []
    for number in range(1, _PLAYED + 1):
        present = _present(devices, number, sampled, scale.users)
        seconds.append(devices.close(number, (DeviceTask(user, **task) for user in present), cohort).seconds or 0.0)
    return float(np.mean(seconds))


def _present(devices: SimulatedDevices, number: int, wanted: int, users: int) -> list[int]:
    """Return the first `wanted` available users of a round, other users than in other rounds, or all there are."""
    present: list[int] = []
    # Different users in each round, since a cohort is a small part of all users.
    for start in range(number * users, (number + 1) * users, wanted):
        present += devices.available(number, range(start, min(start + wanted, (number + 1) * users)))
        if len(present) >= wanted:
            break
    return present[:wanted]


def _assumptions(
    scale: Scale, runs: list[MeasuredRun], opening: bool, seconds: float | None, memory: float | None
) -> list[str]:
    sizes = sorted({run.cohort for run in runs})
    measured = f"measured with cohorts of {', '.join(f'{size:g}' for size in sizes)}"
    lines = [
        f"{scale.users:,} users, {scale.cohort:,} of them in each round, {scale.rounds:,} rounds of stage 1; each "
        "user's download for personalisation is not included",
        f"a number takes {scale.bytes_per_element:g} bytes on the wire; the rest of a message is as measured; TLS, "
        "polling and retries after faults are not included",
        f"{measured}; extrapolated to {scale.cohort / sizes[-1]:,.0f} times the largest of them",
        "every user takes as many steps as the measured users on average",
    ]
    if any(run.up_coded or run.down_coded or run.change_bytes for run in runs):
        lines.append(
            "coded numbers take as many bytes as measured; a client gets the changes since its last round, or a copy "
            "if that is shorter, and is drawn in every round with the same probability"
        )
    if len(sizes) > 1:
        lines.append("message sizes and the server's seconds are linear in the cohort size, fitted to the runs")
    else:
        lines.append(
            "one cohort size was measured: message sizes are assumed constant (FLoRA's download is not), the server's "
            "seconds proportional to the cohort"
        )
    if opening:
        lines.append("every user takes part once in the opening before the first round")
    if seconds is None:
        lines.append("no server seconds: these records lack them, or they do not grow with the cohort (noise)")
    if memory is None:
        lines.append("no server memory: this needs runs with two numbers of users, far enough apart that memory grows")
    else:
        lines.append("the server's memory is linear in the number of users; small runs differ only by noise")
    if scale.devices:
        played = f", simulated with {_LARGEST} per round" if scale.cohort > _LARGEST else ""
        lines.append(
            f"devices as in configs/devices/{scale.devices}.toml{played}; the server works after the last reply"
        )
    else:
        lines.append("no device profile, so no wall-clock time")
    return lines
