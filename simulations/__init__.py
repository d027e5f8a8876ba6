"""What a person runs: the `fedperfit` command, the launcher, and what reads run records afterwards.

From Python:

    from simulations import compare, load_config, simulate

    config = load_config("configs/experiments/demo.toml", ["users.collective=16", "cohort=4"])
    record = simulate(config, name="first")
    print(record.metrics, record.bytes.total)

A method of one's own, named in a TOML file, is found with `import_path=import_folders(toml)`. Every error a person can
cause is an `InputError` (nothing was run) or a `RunFailed` (the run record says more).
"""

from configs.errors import InputError, RunFailed
from configs.load import import_folders, load_config
from fl_server.records import RunRecord, read_run
from simulations.cold_start_report import write_report
from simulations.cold_start_runs import Question, cold_start
from simulations.comparison_runs import compare
from simulations.export.export import export
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
