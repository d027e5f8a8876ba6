"""Quality by stage as bars: what a report opens with where there is no curve to draw."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from simulations.display.style import PALETTE
from simulations.report.figures import axis, finished, safe
from simulations.report.gather import ReportRun
from simulations.report.series import series

_STAGES = (
    ("bare backbone", "metrics_base"),
    ("collective, after stage 1", "metrics_collective"),
    ("personalised, after stage 2", "metrics"),
)


def is_one_point(runs: Sequence[ReportRun]) -> bool:
    """Whether the cost curve of these runs would be a single point: one series, evaluated at the end only."""
    midway = [run.rounds.filter(like="personalised.") for run in runs]
    # Without a column, `dropna` would keep every row.
    return len(series(runs)) == 1 and not any(part.shape[1] and len(part.dropna(how="all")) for part in midway)


def quality_by_stage(runs: Sequence[ReportRun]) -> go.Figure:
    """Draw the quality of the bare backbone and after each stage, mean and standard deviation over seeds."""
    figure = go.Figure()
    lines = series(runs)
    for number, (title, part) in enumerate(_STAGES):
        values = [[getattr(run.record, part)[run.metric] for run in item.runs] for item in lines]
        means = [float(np.mean(of_stage)) for of_stage in values]
        figure.add_bar(
            x=[safe(item.label) for item in lines],
            y=means,
            name=title,
            text=[f"{value:.3f}" for value in means],
            marker={"color": PALETTE[number]},
            error_y={"array": [float(np.std(of_stage, ddof=1)) if len(of_stage) > 1 else 0.0 for of_stage in values]},
        )
    figure.update_yaxes(title=axis(runs[0].metric))
    return finished(figure)
