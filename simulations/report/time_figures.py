"""A report's figures about time: what quality costs in seconds, who worked when, and the virtual clock."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from simulations.display.style import colour
from simulations.report.figures import LOGARITHMIC, axis, finished, safe
from simulations.report.gather import ReportRun
from simulations.report.series import series

_PHASES = {"train": "#0072B2", "introduce": "#009E73", "personalize": "#D55E00", "evaluate": "#999999"}
BARS = 1500
"""Maximum number of tasks of a run drawn by partition, which keeps the report small."""


def quality_by_seconds(runs: Sequence[ReportRun]) -> go.Figure | None:
    """Draw quality against the seconds of a newcomer's client, with bars over seeds; None if no record has seconds."""
    figure = go.Figure()
    for item in series(runs):
        clients = pd.concat([run.clients for run in item.runs])
        seconds = clients[clients.phase == "personalize"].wall_s.mean()
        values = pd.Series([run.record.metrics[run.metric] for run in item.runs])
        if pd.notna(seconds):
            figure.add_scatter(
                x=[seconds],
                y=[values.mean()],
                error_y={"array": [values.std()], "visible": len(values) > 1},
                name=safe(item.label),
                mode="markers",
                hovertemplate="%{x:.3g} s<br>%{y:.3f}",
                **item.style,
            )
    if not figure.data:
        return None
    figure.update_xaxes(title="seconds of a target user's client: stage 2 and evaluation", **LOGARITHMIC)
    figure.update_yaxes(title=axis(runs[0].metric))
    return finished(figure)


def simulated_time(runs: Sequence[ReportRun]) -> go.Figure | None:
    """Draw the simulated time against rounds; None if no devices were simulated."""
    figure = go.Figure()
    for run in runs:
        if run.record.simulated_s is not None:
            line = {"color": colour(run.record.method)}
            figure.add_scatter(
                x=run.rounds["round"], y=run.rounds.simulated_s.cumsum() / 60, name=safe(run.label), line=line
            )
    figure.update_xaxes(title="round")
    figure.update_yaxes(title="simulated minutes since the start of stage 1")
    return finished(figure) if figure.data else None


def partitions(run: ReportRun) -> go.Figure | None:
    """Draw which partition ran which user's task, and when; None if the record has no such data."""
    tasks = run.clients.dropna(subset=["partition", "wall_s", "ended_at"])
    if tasks.empty:
        return None
    every, tasks = len(tasks), tasks.sort_values("ended_at").tail(BARS)
    start = tasks.ended_at - tasks.wall_s
    lanes = _lanes(tasks.partition, start, tasks.ended_at)
    figure = go.Figure()
    for phase, shade in _PHASES.items():
        of_phase = tasks[tasks.phase == phase]
        figure.add_bar(
            y=lanes[of_phase.index],
            x=of_phase.wall_s,
            base=start[of_phase.index] - start.min(),
            orientation="h",
            name=phase,
            marker={"color": shade, "line": {"width": 0.5}},
            # For a bar with a base, x is its end.
            customdata=np.stack([of_phase.user, of_phase["round"], of_phase.wall_s], axis=1) if len(of_phase) else None,
            hovertemplate="user %{customdata[0]}, round %{customdata[1]}<br>"
            "%{customdata[2]:.2f} s from %{base:.1f} s<extra>" + phase + "</extra>",
        )
    figure.update_layout(barmode="overlay", bargap=0.3)
    figure.update_xaxes(title="seconds" + (f", the last {BARS:,} of {every:,} tasks" if every > BARS else ""))
    figure.update_yaxes(title="partition")
    return finished(figure)


def _lanes(partitions: "pd.Series[str]", start: "pd.Series[float]", end: "pd.Series[float]") -> "pd.Series[str]":
    """Return each task's partition, numbered if its tasks overlap, since several slots may share one name."""
    free: dict[str, list[float]] = {}
    names = pd.Series(index=partitions.index, dtype=str)
    for task in start.sort_values(kind="stable").index:
        ends = free.setdefault(partitions[task], [])
        lane = next((number for number, ended in enumerate(ends) if ended <= start[task]), len(ends))
        ends[lane : lane + 1] = [end[task]]
        names[task] = partitions[task] + (f" ({lane + 1})" if lane else "")
    return names
