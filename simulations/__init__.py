"""What a person runs: the `fedperfit` command, engines, experiments, and what reads run records afterwards.

Programs import from `fedperfit`.
"""

from typing import Any

_IN_FEDPERFIT = (
    *("ColdStartSpec", "InputError", "RunFailed", "RunRecord", "Scale", "cold_start", "compare", "deploy", "export"),
    *("find_runs", "import_folders", "load_config", "project", "read_run", "resume", "simulate", "tune", "write_page"),
)


def __getattr__(name: str) -> Any:
    if name == "Question":
        name = "ColdStartSpec"
    if name in _IN_FEDPERFIT:
        # `from simulations import …` would hide the message of an AttributeError.
        raise ImportError(f"since version 0.2 it is `from fedperfit import {name}`")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
