"""Checks the cost model: fits it to two sizes of a federation, and compares its forecast for a third with a real run.

`python -m benchmarks.projection` simulates 100, 1,000 and 5,000 users with the tiny backbone, a fifth of them in each
round. Prints the forecast and the measurement, and writes `results/bench-projection.json`; nothing is asserted.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.engine import OVERRIDES
from configs.load import load_config
from simulations.projection.measured import measure
from simulations.projection.model import Scale, project
from simulations.run.simulate import simulate

SIZES = (100, 1000, 5000)
_SHARE, _ROUNDS = 0.2, 3


def main() -> None:
    """Run, forecast, print."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = []
        for users in SIZES:
            words = [f"users.collective={users}", f"cohort={round(users * _SHARE)}", f"rounds={_ROUNDS}"]
            simulate(load_config(None, [*OVERRIDES, *words]), f"users-{users}", Path(scratch))
            folders.append(Path(scratch) / f"users-{users}")
        scale = Scale(SIZES[-1], _SHARE, _ROUNDS, bytes_per_element=4)
        forecast = project(folders[:-1], scale)[0]
        third = measure(folders[-1])
        ledger = pd.read_parquet(folders[-1] / "ledger.parquet", columns=["phase", "message_bytes"])
        crossed = int(ledger[ledger.phase == "train"].message_bytes.sum())
    pairs = {
        "total_bytes": (forecast["total_bytes"], crossed),
        "server_round_s": (forecast["server_round_s"], float(np.mean(third.server_s))),
        "server_memory_bytes": (forecast["server_memory_bytes"], third.server_rss_bytes),
    }
    report = {
        key: {"foretold": expected, "measured": measured, "off_by_percent": 100 * (expected / measured - 1)}
        for key, (expected, measured) in pairs.items()
        if measured
    }
    report["server_round_s"]["standard_error"] = forecast["server_round_s_error"]
    print(json.dumps(report, indent=1))
    Path("results").mkdir(exist_ok=True)
    Path("results/bench-projection.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
