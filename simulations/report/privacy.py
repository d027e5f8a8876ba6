"""What a report says of privacy: the promise of every run, and ε by round."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from rich.table import Table

from configs.errors import InputError
from configs.schema import RunConfig
from fl_server.record.folder import RunFolder
from simulations.display.tables import new_table
from simulations.report.figures import finished, safe
from simulations.report.gather import ReportRun
from simulations.report.series import series
from simulations.run.starting_run import origin_of

_EPSILON = "privacy.epsilon"


def promises(runs: Sequence[ReportRun]) -> Table | None:
    """Tabulate who can read which updates of each run, and its ε; None if no run promises anything."""
    with_stage_1 = [run for run in runs if run.record.params.shared]
    if not any(run.record.privacy or _stage_1(run.config).secure.aggregation for run in with_stage_1):
        return None
    table = new_table(title="what stage 1 promises its users")
    for title in ("run", "noise added by", "ε", "δ", "z", "C", "rounds", "server reads"):
        table.add_column(title, justify="right" if title in ("ε", "δ", "z", "C", "rounds") else "left")
    for run in runs:
        spent, masked = run.record.privacy, _stage_1(run.config).secure.aggregation
        reads, cells = "every update", ["nobody", "–", "–", "–", "–", "–"]
        if spent:
            reads = "every update" if spent.kind == "central" else "every update with its noise"
            who = "the server" if spent.kind == "central" else "every client"
            epsilon = "none" if spent.epsilon is None else f"{spent.epsilon:.3g}"
            numbers = (f"{spent.delta:g}", f"{spent.noise_multiplier:.3g}", f"{spent.clip:.3g}", str(spent.rounds))
            cells = [who, epsilon, *numbers]
        if masked:
            reads = "a round's sum"
        table.add_row(run.label, *cells, reads if run.record.params.shared else "nothing")
    table.caption = (
        "user-level differential privacy (ε, δ), for neighbours that differ in one collective user's data; "
        "z: noise multiplier; C: the norm that updates are clipped to, after the last round; "
        "in a simulation, the noise can be computed from the seed and removed"
    )
    return table


def _stage_1(config: RunConfig) -> RunConfig:
    """Return the config of the run that trained the shared tensors, if its record is still there."""
    if config.start_from:
        with suppress(InputError):
            return RunFolder(origin_of(Path(config.start_from))).config
    return config


def epsilon_by_round(runs: Sequence[ReportRun]) -> go.Figure | None:
    """Draw the ε that stage 1 has spent after every round, the largest over seeds; None without noise."""
    figure = go.Figure()
    for item in series([run for run in runs if _EPSILON in run.rounds]):
        spent = pd.concat([run.rounds[["round", _EPSILON]].dropna() for run in item.runs])
        spent = spent.groupby("round", as_index=False).max()
        if len(spent):
            figure.add_scatter(
                x=spent["round"], y=spent[_EPSILON], name=safe(item.label), mode="lines+markers", **item.style
            )
    if not figure.data:
        return None
    figure.update_xaxes(title="round")
    figure.update_yaxes(title="ε", rangemode="tozero")
    return finished(figure)
