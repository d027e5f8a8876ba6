"""Does the cost model hold? It is fitted to two sizes of a federation and asked for the third, which is run too.

`python -m benchmarks.projection` simulates 100, 1,000 and 5,000 users of the tiny backbone, a fifth of them in a round.
Prints what was foretold and what was measured, and writes `results/bench-projection.json`; nothing is asserted.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.engine import OVERRIDES
from configs.load import load_config
from simulations.projection.model import Scale, measure, project
from simulations.run.simulate import simulate

SIZES = (100, 1000, 5000)
_SHARE, _ROUNDS = 0.2, 3


def main() -> None:
    """Run, foretell, print."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = []
        for users in SIZES:
            words = [f"users.collective={users}", f"cohort={round(users * _SHARE)}", f"rounds={_ROUNDS}"]
            simulate(load_config(None, [*OVERRIDES, *words]), f"users-{users}", Path(scratch))
            folders.append(Path(scratch) / f"users-{users}")
        scale = Scale(SIZES[-1], _SHARE, _ROUNDS, bytes_per_element=4)
        foretold = project(folders[:-1], scale)[0]
        third = measure(folders[-1])
        ledger = pd.read_parquet(folders[-1] / "ledger.parquet", columns=["phase", "message_bytes"])
        crossed = int(ledger[ledger.phase == "train"].message_bytes.sum())
    pairs = {
        "total_bytes": (foretold["total_bytes"], crossed),
        "server_round_s": (foretold["server_round_s"], float(np.mean(third.server_s))),
        "server_memory_bytes": (foretold["server_memory_bytes"], third.server_rss_bytes),
    }
    report = {
        key: {"foretold": ours, "measured": theirs, "off_by_percent": 100 * (ours / theirs - 1)}
        for key, (ours, theirs) in pairs.items()
        if theirs
    }
    report["server_round_s"]["standard_error"] = foretold["server_round_s_error"]
    print(json.dumps(report, indent=1))
    Path("results").mkdir(exist_ok=True)
    Path("results/bench-projection.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
