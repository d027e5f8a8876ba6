"""After how many newcomers Profile-to-PEFT's training is paid back: `python -m benchmarks.break_even P2P OTHER`.

Both are completed runs on the same users and machine; OTHER trains every newcomer (OPPU). Seconds are what clients
report for their own work. A newcomer's includes evaluation before and after, which is the same work in both.
"""

import argparse
import json
import math
from pathlib import Path

import pandas as pd

from configs.errors import InputError
from fl_server.record.folder import RunFolder


def seconds(record: Path) -> dict[str, float]:
    """Return the seconds of all clients' stage 1, with its opening, and of one newcomer."""
    files = RunFolder(record)
    if files.record.status != "completed":
        raise InputError(f"{record}: this run did not complete ({files.status})")
    clients = files.clients(["phase", "wall_s"]).to_pandas()
    by_phase = clients.groupby("phase").wall_s
    newcomers = clients[clients.phase.isin(["introduce", "personalize"])].wall_s.sum() / files.record.users.target
    return {"stage 1": float(by_phase.sum().get("train", 0.0)), "a newcomer": float(newcomers)}


def check_same_users(p2p: Path, other: Path) -> None:
    """Refuse runs on different users, and another method whose newcomers train nothing."""
    ours, theirs = RunFolder(p2p).record, RunFolder(other).record
    if ours.users.data_sha256 != theirs.users.data_sha256:
        raise InputError(f"{other}: other users than those of {p2p}")
    if not any(
        row["steps"]
        for row in RunFolder(other).clients(["phase", "steps"]).to_pylist()
        if row["phase"] == "personalize"
    ):
        raise InputError(f"{other}: its newcomers take no step, so nothing is saved")


def break_even(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float | None]:
    """Return the newcomers after which our seconds are fewer, with and without the other's stage 1; None: never."""
    saved = theirs["a newcomer"] - ours["a newcomer"]
    newcomers: dict[str, float | None] = {}
    for name, before in (("with the other's stage 1", theirs["stage 1"]), ("without it", 0.0)):
        newcomers[name] = max(0, math.ceil((ours["stage 1"] - before) / saved)) if saved > 0 else None
    return newcomers


def main() -> None:
    """Print the seconds and the numbers of newcomers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("p2p", type=Path, help="a completed run of Profile-to-PEFT")
    parser.add_argument("other", type=Path, help="a completed run of a method that trains newcomers")
    given = parser.parse_args()
    try:
        check_same_users(given.p2p, given.other)
        ours, theirs = seconds(given.p2p), seconds(given.other)
    except InputError as error:
        raise SystemExit(str(error)) from None
    table = pd.DataFrame({str(given.p2p): ours, str(given.other): theirs}).round(2)
    content = {"seconds": table.to_dict(), "newcomers until paid back": break_even(ours, theirs)}
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
