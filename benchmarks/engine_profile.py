"""Where the engine's time goes, by share: `python -m benchmarks.engine_profile --users 500`.

The second of two rounds of tiny clients in this process under Python's profiler, which makes calls look more expensive
than arithmetic. Every row is the cumulative time of some functions, without that of the rows nested in it.
"""

import argparse
import cProfile
import pstats
import tempfile
from pathlib import Path
from unittest import mock

from rich.console import Console
from rich.table import Table

from benchmarks.engine import OVERRIDES
from configs.load import load_config
from fl_server.collecting import Collector
from fl_server.stage_1 import Stage1
from simulations.run.simulate import simulate

_ROWS: dict[str, list[tuple[str, str]]] = {
    "client: forward pass": [("fit.py", "_loss")],
    "client: kept hidden states": [("frozen_prefix.py", "states")],
    "client: backward pass": [("_tensor.py", "backward")],
    "client: optimiser": [("fit.py", "_optimizer"), ("optimizer.py", "wrapper"), ("clip_grad.py", "clip_grad_norm_")],
    "client: retraction": [("common.py", "retract_all")],
    "client: rest of its task": [("handlers.py", "train")],
    "client: opening its rows": [("user_table.py", "open_user")],
    "client: tokenising": [("prompts.py", "training_examples")],
    "client: private store": [("private_store.py", "read_client_state"), ("private_store.py", "write_client_state")],
    "client: reading and writing messages": [("client_app.py", "__call__")],
    "engine: carrying messages": [("inline.py", "pull_messages")],
    "server: sending": [("exchange.py", "_send")],
    "server: reading replies": [("exchange.py", "_reply")],
    "server: checking and keeping updates": [("updates.py", "add")],
    "server: events": [("writer.py", "event")],
    "server: ledger and rows": [("writer.py", "client"), ("ledger.py", "record"), ("tables.py", "flush")],
    "server: averaging": [("updates.py", "fold")],
    "server: rest": [("stage_1.py", "_train_round")],
}
_NESTED = {
    "client: forward pass": ["client: kept hidden states"],
    "client: rest of its task": [
        "client: forward pass",
        "client: kept hidden states",
        "client: backward pass",
        "client: optimiser",
        "client: retraction",
        "client: opening its rows",
        "client: tokenising",
        "client: private store",
    ],
}
"""Rows whose functions call those of other rows."""


def shares(stats: pstats.Stats) -> dict[str, float]:
    """Return the seconds of each row in one round."""
    seconds = dict.fromkeys(_ROWS, 0.0)
    for (file, _, function), (_, _, _, cumulative, _) in stats.stats.items():  # type: ignore[attr-defined]
        for row, members in _ROWS.items():
            if (Path(file).name, function) in members:
                seconds[row] += cumulative
    by_row = dict(seconds)
    for row, inside in _NESTED.items():
        by_row[row] = seconds[row] - sum(by_row[name] for name in inside)
    by_row["client: reading and writing messages"] -= seconds["client: rest of its task"]
    by_row["engine: carrying messages"] -= seconds["client: reading and writing messages"]
    carried = seconds["engine: carrying messages"]
    server = [row for row in _ROWS if row.startswith("server") and row != "server: rest"]
    by_row["server: rest"] = max(0.0, seconds["server: rest"] - carried - sum(by_row[row] for row in server))
    return by_row


def main() -> None:
    """Profile one round and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=500)
    users = parser.parse_args().users
    words = [*OVERRIDES, "users.target=1", f"users.collective={users}", f"cohort={users}", "rounds=2", "engine=inline"]
    profile = cProfile.Profile()
    train_round = Stage1._train_round

    def profiled(run: Stage1, number: int, users: list[int], collector: Collector) -> None:
        if number == 2:  # in the first, the process opens the backbone
            profile.runcall(train_round, run, number, users, collector)
        else:
            train_round(run, number, users, collector)

    with tempfile.TemporaryDirectory() as results, mock.patch.object(Stage1, "_train_round", profiled):
        simulate(load_config(None, words), "profile", Path(results))
    by_row = shares(pstats.Stats(profile))
    whole = sum(by_row.values())
    table = Table("part", "share", "ms a client", title=f"one round of {users} tiny clients, inline, profiled")
    for row, seconds in by_row.items():
        table.add_row(row, f"{seconds / whole:.1%}", f"{1000 * seconds / users:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
