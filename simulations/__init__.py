"""What a person runs: the `fedperfit` command, the launcher, and what reads run records afterwards.

From Python:

    from simulations import compare, load_config, simulate

    config = load_config("configs/experiments/demo.toml", ["users.collective=16", "cohort=4"])
    record = simulate(config, name="first")
    print(record.metrics, record.bytes.total)

A method of one's own, named in a TOML file, is found with `import_path=import_folders(toml)`. Every error a person can
cause is an `InputError` (nothing was run) or a `RunFailed` (the run record says more).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.errors import InputError, RunFailed
    from configs.load import import_folders, load_config
    from fl_server.records import RunRecord, read_run
    from simulations.cold_start_question import Question
    from simulations.cold_start_report import write_report
    from simulations.cold_start_runs import cold_start
    from simulations.comparison_runs import compare
    from simulations.exports.export import export
    from simulations.federation.deploy import deploy
    from simulations.projection.model import Scale, project
    from simulations.report.page import write_page
    from simulations.runs import find_runs
    from simulations.simulation import resume, simulate
    from simulations.tuning import tune

__all__ = [
    "InputError",
    "Question",
    "RunFailed",
    "RunRecord",
    "Scale",
    "cold_start",
    "compare",
    "deploy",
    "export",
    "find_runs",
    "import_folders",
    "load_config",
    "project",
    "read_run",
    "resume",
    "simulate",
    "tune",
    "write_page",
    "write_report",
]

# Imported when asked for: PyTorch and transformers take seconds, and `fedperfit runs` or a misspelt key need not wait.
_HOMES = {
    "InputError": "configs.errors",
    "Question": "simulations.cold_start_question",
    "RunFailed": "configs.errors",
    "RunRecord": "fl_server.records",
    "Scale": "simulations.projection.model",
    "cold_start": "simulations.cold_start_runs",
    "compare": "simulations.comparison_runs",
    "deploy": "simulations.federation.deploy",
    "export": "simulations.exports.export",
    "find_runs": "simulations.runs",
    "import_folders": "configs.load",
    "load_config": "configs.load",
    "project": "simulations.projection.model",
    "read_run": "fl_server.records",
    "resume": "simulations.simulation",
    "simulate": "simulations.simulation",
    "tune": "simulations.tuning",
    "write_page": "simulations.report.page",
    "write_report": "simulations.cold_start_report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
