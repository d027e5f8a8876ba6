"""Federated learning of personalised language models: the public Python interface.

    from fedperfit import compare, load_config, simulate

    config = load_config("configs/experiments/demo.toml", ["users.collective=16", "cohort=4"])
    record = simulate(config, name="first")
    print(record.metrics, record.bytes.total)

To use your own method from a TOML file, pass `import_path=import_folders(toml)`. Errors that a user can cause are
`InputError` (nothing was run) or `RunFailed` (see the run record).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedperfit.own_packages import claim_packages

claim_packages()

if TYPE_CHECKING:
    from configs.errors import InputError, RunFailed
    from configs.load import import_folders, load_config
    from fl_server.record.schema import RunRecord, read_run
    from simulations.experiments.cold_start.experiment import cold_start
    from simulations.experiments.cold_start.spec import ColdStartSpec
    from simulations.experiments.compare import compare
    from simulations.experiments.tune import tune
    from simulations.exports.export import export
    from simulations.federation.deploy import deploy
    from simulations.projection.model import Scale, project
    from simulations.report.page import write_page
    from simulations.run.catalogue import find_runs
    from simulations.run.simulate import resume, simulate

__all__ = [
    "ColdStartSpec",
    "InputError",
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
]

# Imported on first use: PyTorch and transformers load slowly, and `fedperfit runs` or a mistyped key needs neither.
_EXPORTS = {
    "ColdStartSpec": "simulations.experiments.cold_start.spec",
    "InputError": "configs.errors",
    "RunFailed": "configs.errors",
    "RunRecord": "fl_server.record.schema",
    "Scale": "simulations.projection.model",
    "cold_start": "simulations.experiments.cold_start.experiment",
    "compare": "simulations.experiments.compare",
    "deploy": "simulations.federation.deploy",
    "export": "simulations.exports.export",
    "find_runs": "simulations.run.catalogue",
    "import_folders": "configs.load",
    "load_config": "configs.load",
    "project": "simulations.projection.model",
    "read_run": "fl_server.record.schema",
    "resume": "simulations.run.simulate",
    "simulate": "simulations.run.simulate",
    "tune": "simulations.experiments.tune",
    "write_page": "simulations.report.page",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
