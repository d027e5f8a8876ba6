"""Measures several clients on one machine: threads against processes, and memory with one copy of the weights."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.local import random_examples
from configs.errors import InputError
from fl_clients.backbone.load import find, load


def run_together(backbone: str, site: int, processes: int, threads: int, seconds: float) -> list[dict[str, Any]]:
    """Train clients in parallel for some seconds.

    Args:
        backbone: A value of the config's `backbone`.
        site: Decoder block of the shift.
        processes: Number of processes.
        threads: Threads of each process.
        seconds: Duration of the training.

    Returns:
        For each process its number of `steps`, and its proportional set size `pss` in bytes while all were running.
    """
    command = [sys.executable, "-m", "benchmarks.client", backbone, str(threads), str(site), str(seconds)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    try:
        for child in children:
            if _line(child) != "ready":
                raise RuntimeError("a benchmark process did not start")
        for child in children:
            _tell(child)
        reports: list[dict[str, Any]] = [json.loads(_line(child)) for child in children]
        for child in children:
            _tell(child)
        return reports
    finally:
        for child in children:
            child.kill()
            child.wait()


def splits(backbone: str, site: int, cores: int, seconds: float) -> list[dict[str, Any]]:
    """Measure each way to split the cores into processes × threads.

    Returns:
        One row per split: `processes`, `threads`, and the sums `steps_per_s` and `pss_mib` over all processes.
    """
    rows = []
    for processes in (count for count in range(1, cores + 1) if cores % count == 0):
        reports = run_together(backbone, site, processes, cores // processes, seconds)
        rows.append(
            {
                "processes": processes,
                "threads": cores // processes,
                "steps_per_s": sum(report["steps"] for report in reports) / seconds,
                "pss_mib": sum(report["pss"] for report in reports) / 2**20,
            }
        )
    return rows


def pyreft_step(python: Path, backbone: str, sites: list[int], repeats: int) -> dict[str, float]:
    """Measure a step of pyreft on the same examples: one thread, positions f7+l7, one shift with both ranks together.

    Args:
        python: The Python of an environment with pyreft and a compatible transformers.
        backbone: A value of the config's `backbone`.
        sites: Decoder blocks of the shifts.
        repeats: Timed repetitions.

    Returns:
        `seconds` of a step and its `loss`, which differs from fedperfit's because pyreft's initial values differ.

    Raises:
        InputError: pyreft does not run in that environment.
    """
    examples = random_examples(load(backbone, "fp32"))
    work = {
        "model": str(find(backbone)),
        "tokens": [example.prompt + example.answer for example in examples],
        "prompt": len(examples[0].prompt),
        "sites": sites,
        "rank": 36,
        "first": 7,
        "last": 7,
        "repeats": repeats,
        "threads": 1,
    }
    command = [str(python), str(Path(__file__).with_name("pyreft_step.py"))]
    done = subprocess.run(command, input=json.dumps(work), capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no error message"])[-1]
        raise InputError(f"pyreft's step failed: {reason}", field="pyreft", value=python)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _line(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def _tell(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
