"""Figures of a cold-start experiment."""

import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simulations.display.plots import logarithmic, save_figure
from simulations.display.style import styles
from simulations.experiments.cold_start.findings import (
    brightness,
    by_history,
    history_levels,
    main_rows,
    transfer_matrix,
    transfers,
)
from strategies.metrics.statistics import LOWER_IS_BETTER

matplotlib.use("Agg")


def draw(rows: pd.DataFrame, folder: Path) -> None:
    """Draw `cold_start-<task>` for every task, and `transfer` if there are transfers."""
    chosen = main_rows(rows)
    looks = styles(chosen.method)
    for task, part in chosen.groupby("task", sort=False):
        figure = Figure(figsize=(13, 4), layout="constrained")
        by_number, by_bytes, by_items = figure.subplots(1, 3)
        counts = sorted(part.collective.unique())
        places = history_levels(rows, task)
        for method, of_method in part.groupby("method", sort=False):
            look = looks[str(method)]
            style: dict[str, Any] = {"color": look.colour, "marker": look.marker, "label": method}
            values = of_method.groupby("collective").value
            _line(by_number, list(values.mean().index), values.mean(), values.std(), style)
            if of_method.shared_parameters.any():
                spent = of_method.groupby("collective")[["bytes_total", "value"]].mean()
                by_bytes.plot(spent.bytes_total / 1e6, spent.value, **style)
                spent["upper"] = spent.value.rank(method="first") > len(spent) / 2
                for count, point in spent.iterrows():
                    position = (point.bytes_total / 1e6, point.value)
                    named = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": style["color"]}
                    # Labels of higher points go above, others below, since two points may coincide.
                    by_bytes.annotate(str(count), position, (6, 5 if point.upper else -5), **named)
            levels = by_history(rows, task, method, counts[-1])
            means, deviations = ([getattr(level, key) for level in levels.values()] for key in ("mean", "std"))
            at = [places.index(level) for level in levels]
            _line(by_items, at, pd.Series(means), pd.Series(deviations, dtype=float), style)
        metric = part.metric.iloc[0]
        by_number.set_xscale("log")
        by_number.set_xticks(counts, [f"{count:,}" for count in counts])
        by_number.set_xticks([], minor=True)
        by_number.set_xlabel("collective users")
        logarithmic(by_bytes)
        by_bytes.set_xlabel("bytes, all clients, MB\n(point labels: collective users)")
        by_items.set_xticks(range(len(places)), places)
        by_items.set_xlabel(f"limit on history items; 0: before stage 2\n({counts[-1]:,} collective users)")
        by_bytes.margins(x=0.2)
        for axes in (by_number, by_bytes, by_items):
            axes.set_ylabel(f"{metric}{', lower is better' if metric in LOWER_IS_BETTER else ''}")
        figure.legend(*by_number.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        figure.suptitle(f"{task}: newcomers (band: ± one standard deviation over seeds)")
        save_figure(figure, folder, f"cold_start-{task}")
    if len(transfers(rows)):
        save_figure(_heat_maps(rows), folder, "transfer")


def _line(axes: Axes, places: list[Any], mean: pd.Series, deviation: pd.Series, style: dict[str, Any]) -> None:
    """Draw one method, with a band of one standard deviation over seeds if there are several."""
    around = deviation.fillna(0)
    axes.plot(places, mean, **style)
    axes.fill_between(places, mean - around, mean + around, color=style["color"], alpha=0.15, linewidth=0)


def _heat_maps(rows: pd.DataFrame) -> Figure:
    methods = list(dict.fromkeys(transfers(rows).method))
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
        axes.set_title(f"{method}: trained on (row), used on (column)", fontsize=9)
        label = "brightness: share of the column's best\nsites, positions, ranks and stage 2's rate: the row's"
        axes.set_xlabel(label, fontsize=8)
    return figure
