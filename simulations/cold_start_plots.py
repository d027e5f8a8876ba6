"""Pictures of a cold-start experiment."""

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulations.cold_start_findings import brightness, by_history, main_rows, transfer_matrix, transfers
from simulations.colours import colour, marker
from simulations.plots import logarithmic, save_figure
from strategies.metrics import LOWER_IS_BETTER

matplotlib.use("Agg")


def draw(rows: pd.DataFrame, folder: Path) -> None:
    """Draw `cold_start-<task>` for every task, and `transfer` where there are transfers."""
    chosen = main_rows(rows)
    for task, part in chosen.groupby("task", sort=False):
        figure = Figure(figsize=(13, 4), layout="constrained")
        by_number, by_bytes, by_items = figure.subplots(1, 3)
        for method, own in part.groupby("method", sort=False):
            style: dict[str, Any] = {"color": colour(str(method)), "marker": marker(str(method)), "label": method}
            _line(by_number, own, "collective", style)
            if own.shared_parameters.any():
                spent = own.groupby("collective")[["bytes_total", "value"]].mean()
                by_bytes.plot(spent.bytes_total / 1e6, spent.value, **style)
            most = own.collective.max()
            levels = by_history(rows, task, method, most)
            values = [level["mean"] for level in levels.values()]
            by_items.plot(list(levels), values, **style)
        metric = part.metric.iloc[0]
        logarithmic(by_number)
        by_number.set_xlabel("collective users")
        logarithmic(by_bytes)
        by_bytes.set_xlabel("bytes, all clients, MB (rounds × cohort, however many users)")
        by_items.set_xlabel("items of history a newcomer brings, at most")
        for axes in (by_number, by_bytes, by_items):
            axes.set_ylabel(f"{metric}{', lower is better' if metric in LOWER_IS_BETTER else ''}")
        by_number.legend(fontsize=8)
        figure.suptitle(f"{task}: target users after personalisation (band: ± one deviation over seeds)")
        save_figure(figure, folder, f"cold_start-{task}")
    if len(transfers(rows)):
        save_figure(_heat_maps(rows), folder, "transfer")


def _line(axes: Axes, own: pd.DataFrame, key: str, style: dict[str, Any]) -> None:
    grouped = own.groupby(key).value
    mean, deviation = grouped.mean(), grouped.std().fillna(0)
    axes.plot(mean.index, mean, **style)
    axes.fill_between(mean.index, mean - deviation, mean + deviation, color=style["color"], alpha=0.15, linewidth=0)


def _heat_maps(rows: pd.DataFrame) -> Figure:
    methods = list(dict.fromkeys(rows.method))
    figure = Figure(figsize=(5 * len(methods), 4), layout="constrained")
    for axes, method in zip(figure.subplots(1, len(methods), squeeze=False)[0], methods, strict=True):
        matrix = transfer_matrix(rows, method)
        shades = brightness(matrix, rows).to_numpy(dtype=float)
        axes.imshow(shades, cmap="viridis", vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(matrix.to_numpy()):
            if not math.isnan(value):
                ink = "black" if shades[row, column] > 0.6 else "white"
                axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=ink, fontsize=8)
        axes.set_xticks(range(matrix.shape[1]), list(matrix.columns), rotation=30, ha="right", fontsize=7)
        axes.set_yticks(range(matrix.shape[0]), list(matrix.index), fontsize=7)
        axes.set_title(f"{method}: trained on (row), used on (column); brighter is better", fontsize=9)
    return figure
