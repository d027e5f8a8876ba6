"""The only file that starts Flower or Ray, or joins a Ray cluster.

`ray`: a SuperLink of our own in simulation mode, on loopback, with its own FLWR_HOME; the app it runs is a generated
folder that names `fl_server.run` and `fl_clients.ray_app`, which every process imports from where fedperfit is
installed.
`inline`: the same two apps in this process.
"""

import re
from collections.abc import Callable
from pathlib import Path

import fl_clients.app
import fl_server.app
from configs.errors import RunFailed
from configs.import_path import write_import_path
from configs.schema import RunConfig
from fl_server.record.schema import append_line, finish_partial_line, mark_resumed, read_run
from simulations.engines.inline import run_inline
from simulations.engines.ray_cluster import cluster_address
from simulations.engines.superlink import Simulation

_RELAUNCHES = 2
"""How often SuperLink and Ray are started anew for a run after they died under it."""


def launch(config: RunConfig, run_dir: Path, import_path: list[str], tick: Callable[[], None]) -> None:
    """Run the federation; when it returns, the run record says how it ended.

    Args:
        config: The run's config, as `run_dir/config.toml` holds it.
        run_dir: The run record, with the starting tensors and the link to its users in it.
        import_path: Folders that a method which is not installed is imported from.
        tick: Called a few times a second, or between clients, while the run goes on.

    Raises:
        RunFailed: The engine could not be started, or ended without a word.
    """
    nodes = config.users.collective + config.users.target
    run_config = {"run-dir": str(run_dir)}
    write_import_path(run_dir, import_path)
    if config.engine == "inline":
        run_inline(fl_server.app.app, fl_clients.app.app, nodes, run_config, tick)
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
            run_dir / "events.jsonl", {"event": "note", "text": f"{problem}; going on from the last checkpoint"}
        )
        mark_resumed(run_dir)


def _last_words(log: Path) -> str:
    """Say how a run ended that did not say so itself: by the last exception in its engine's log, if there is one."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    found = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception): ", line)]
    return f"the run ended with {found[-1]!r}; see {log}" if found else f"the run ended without a word; see {log}"
