"""What a report shows of a cold-start experiment."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from simulations.cold_start_findings import brightness, by_history, main_rows, transfer_matrix
from simulations.colours import colour, symbol
from simulations.report.figures import axis, finished, safe

_DASHES = ("solid", "dot", "dash", "dashdot", "longdash", "longdashdot")


def quality_by_number(rows: pd.DataFrame) -> go.Figure:
    """Draw quality of newcomers against the number of collective users, one line a task and method."""
    figure = go.Figure()
    for name, own, style in _lines(rows):
        grouped = own.groupby("collective").value
        bars = {"type": "data", "array": grouped.std().fillna(0)}
        figure.add_scatter(x=list(grouped.mean().index), y=grouped.mean(), error_y=bars, name=name, **style)
    figure.update_xaxes(title="collective users", type="log")
    return _titled(figure, rows)


def quality_by_bytes(rows: pd.DataFrame) -> go.Figure | None:
    """Draw the same against bytes; None if no method sends any."""
    figure = go.Figure()
    for name, own, style in _lines(rows):
        if own.shared_parameters.any():
            spent = own.groupby("collective")[["bytes_total", "value"]].mean()
            users = [f"{count} collective users" for count in spent.index]
            figure.add_scatter(x=spent.bytes_total / 1e6, y=spent.value, text=users, name=name, **style)
    figure.update_xaxes(title="bytes of all clients, MB", type="log")
    return _titled(figure, rows) if figure.data else None


def quality_by_history(rows: pd.DataFrame) -> go.Figure:
    """Draw quality, with the most collective users, against the items of history that newcomers bring."""
    figure = go.Figure()
    for name, own, style in _lines(rows):
        levels = by_history(rows, own.task.iloc[0], own.method.iloc[0], own.collective.max())
        figure.add_scatter(x=list(levels), y=[level["mean"] for level in levels.values()], name=name, **style)
    figure.update_xaxes(title="items of history a newcomer brings", type="category")
    return _titled(figure, rows)


def transfer_map(rows: pd.DataFrame, method: str) -> go.Figure:
    """Draw quality by the task a shift was trained on (rows) and used on (columns), the best of a column brightest."""
    matrix = transfer_matrix(rows, method)
    text = matrix.map(lambda value: f"{value:.3f}")
    heat = go.Heatmap(
        z=brightness(matrix, rows),
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


def _lines(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Name, rows and look of each task and method: methods have their colour, tasks their dash."""
    main = main_rows(rows)
    tasks = list(dict.fromkeys(main.task))
    found = []
    for (task, method), own in main.groupby(["task", "method"], sort=False):
        line = {"color": colour(str(method)), "dash": _DASHES[tasks.index(task) % len(_DASHES)]}
        style = {"line": line, "marker": {"symbol": symbol(str(method)), "size": 9}, "mode": "lines+markers"}
        found.append((safe(f"{method}, {task}" if len(tasks) > 1 else str(method)), own, style))
    return found


def _titled(figure: go.Figure, rows: pd.DataFrame) -> go.Figure:
    metrics = [axis(metric) for metric in dict.fromkeys(main_rows(rows).metric)]
    figure.update_yaxes(title=f"{' or '.join(metrics)} of unseen users")
    return finished(figure)
