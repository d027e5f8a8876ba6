"""The only file that starts Flower or Ray, or joins a Ray cluster.

`ray`: the server app in a separate process and the client app in Ray's workers, closed to other users of the machine.
`inline` and `vectorized`: the server and client apps in this process.
"""

import re
from collections.abc import Callable
from pathlib import Path

import fl_clients.app
import fl_server.app
from configs.errors import RunFailed
from configs.files import append_line
from configs.import_path import write_import_path
from configs.schema import RunConfig
from fl_server.record.schema import finish_partial_line, mark_resumed, read_run
from simulations.engines.grid import run_server
from simulations.engines.inline import InlineGrid
from simulations.engines.ray_cluster import cluster_address
from simulations.engines.ray_engine import Simulation

_RELAUNCHES = 2
"""How often the process of a run is restarted in which it or Ray died."""


def launch(config: RunConfig, run_dir: Path, import_path: list[str], tick: Callable[[], None]) -> None:
    """Run the federation; afterwards the run record says how it ended.

    Args:
        config: The run's config, the same as `run_dir/config.toml`.
        run_dir: The run record, with the initial tensors and the link to its users.
        import_path: Folders to import the method from, if it is not installed.
        tick: Called during the run, a few times a second or between clients.

    Raises:
        RunFailed: The engine could not be started, or ended without an error message.
    """
    nodes = config.users.collective + config.users.target
    run_config = {"run-dir": str(run_dir)}
    write_import_path(run_dir, import_path)
    if config.engine != "ray":
        together = config.clients_per_pass if config.engine == "vectorized" else 1
        run_server(fl_server.app.app, InlineGrid(fl_clients.app.app, nodes, run_config, tick, together), run_config)
        return
    for left in reversed(range(_RELAUNCHES + 1)):
        try:
            cluster = cluster_address(config.ray.address)
            Simulation(run_dir, cluster).run(config.partitions, nodes, run_config, tick)
            problem = _last_words(run_dir / "engine.log")
        except RunFailed as error:
            problem = str(error)
        if read_run(run_dir).status != "running":
            return
        if not left:
            raise RunFailed(problem)
        finish_partial_line(run_dir / "events.jsonl")
        append_line(
            run_dir / "events.jsonl", {"event": "note", "text": f"{problem}; resuming from the last checkpoint"}
        )
        mark_resumed(run_dir)


def _last_words(log: Path) -> str:
    """Describe how a run ended that recorded no error, by the last exception in the engine's log if there is one."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    exceptions = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception): ", line)]
    outcome = f"with {exceptions[-1]!r}" if exceptions else "without an error message"
    return f"the run ended {outcome}; see {log}"
