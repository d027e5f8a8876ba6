"""The interactive figures of a cold-start experiment."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from simulations.display.style import styles
from simulations.experiments.cold_start.findings import (
    brightness,
    by_history,
    history_levels,
    main_rows,
    transfer_matrix,
)
from simulations.report.figures import LOGARITHMIC, axis, finished, safe


def quality_by_number(rows: pd.DataFrame, task: str) -> go.Figure:
    """Draw quality of newcomers against the number of collective users, one line per method."""
    figure = go.Figure()
    for name, of_method, style in _lines(rows, task):
        grouped = of_method.groupby("collective").value
        bars = {"type": "data", "array": grouped.std().fillna(0)}
        figure.add_scatter(x=list(grouped.mean().index), y=grouped.mean(), error_y=bars, name=name, **style)
    figure.update_xaxes(title="collective users", **LOGARITHMIC)
    return _titled(figure, rows, task)


def quality_by_bytes(rows: pd.DataFrame, task: str) -> go.Figure | None:
    """Draw the same against bytes; None if no method sends any."""
    figure = go.Figure()
    for name, of_method, style in _lines(rows, task):
        if of_method.shared_parameters.any():
            spent = of_method.groupby("collective")[["bytes_total", "value"]].mean()
            shown = {**style, "mode": "lines+markers+text", "textposition": "middle right"}
            figure.add_scatter(
                x=spent.bytes_total / 1e6, y=spent.value, text=list(map(str, spent.index)), name=name, **shown
            )
    figure.update_xaxes(title="bytes of all clients, MB (point labels: collective users)", **LOGARITHMIC)
    return _titled(figure, rows, task) if figure.data else None


def quality_by_history(rows: pd.DataFrame, task: str) -> go.Figure:
    """Draw quality, with the most collective users, against the limit on newcomers' history items."""
    figure = go.Figure()
    for name, of_method, style in _lines(rows, task):
        levels = by_history(rows, task, of_method.method.iloc[0], of_method.collective.max())
        means, deviations = ([getattr(level, key) for level in levels.values()] for key in ("mean", "std"))
        bars = {"type": "data", "array": [deviation or 0 for deviation in deviations]}
        figure.add_scatter(x=list(levels), y=means, error_y=bars, name=name, **style)
    order = {"categoryorder": "array", "categoryarray": history_levels(rows, task)}
    figure.update_xaxes(title="limit on a newcomer's history items; 0: before stage 2", type="category", **order)
    return _titled(figure, rows, task)


def transfer_map(rows: pd.DataFrame, method: str) -> go.Figure:
    """Draw quality by the task a shift was trained on (rows) and used on (columns), brightest at a column's best."""
    matrix = transfer_matrix(rows, method)
    text = matrix.map(lambda value: f"{value:.3f}")
    heat = go.Heatmap(
        z=brightness(matrix, rows),
        zmin=0,
        zmax=1,
        x=list(matrix.columns),
        y=list(matrix.index),
        text=text,
        texttemplate="%{text}",
        hovertemplate="trained on %{y}, used on %{x}: %{text}<extra></extra>",
        colorscale="Viridis",
        showscale=False,
    )
    figure = go.Figure(heat)
    figure.update_xaxes(title="used on")
    figure.update_yaxes(title="trained on", autorange="reversed")
    return finished(figure)


def _lines(rows: pd.DataFrame, task: str) -> list[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Name, rows and line style of each method."""
    main = main_rows(rows)
    lines = []
    looks = styles(main.method)
    for method, of_method in main[main.task == task].groupby("method", sort=False):
        look = looks[str(method)]
        marker = {"symbol": look.symbol, "size": 9}
        style = {"line": {"color": look.colour}, "marker": marker, "mode": "lines+markers"}
        lines.append((safe(str(method)), of_method, style))
    return lines


def _titled(figure: go.Figure, rows: pd.DataFrame, task: str) -> go.Figure:
    metric = rows.metric[rows.task == task].iloc[0]
    figure.update_yaxes(title=f"{axis(metric)} of newcomers")
    return finished(figure)
