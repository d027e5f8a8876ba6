"""Figures of a sweep: a line for one key, a heat map for two."""

from pathlib import Path

from matplotlib.figure import Figure

from simulations.display.plots import save_figure
from simulations.display.style import styles
from simulations.experiments.sweep.schema import Sweep
from simulations.experiments.sweep.tables import cells


def draw(sweep: Sweep, folder: Path) -> None:
    """Draw a sweep of one or two keys as `sweep`, PNG, SVG and PDF; of more keys nothing."""
    if len(sweep.keys) <= 2:
        save_figure(_lines(sweep) if len(sweep.keys) == 1 else _maps(sweep), folder, "sweep")


def _lines(sweep: Sweep) -> Figure:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    (key,) = sweep.keys
    rows = cells(sweep)
    looks = styles(rows.method)
    for method, of_method in rows.groupby("method", sort=False):
        shade, shape = looks[str(method)].colour, looks[str(method)].marker
        axes.errorbar(
            of_method[key],
            of_method.value,
            yerr=of_method.deviation,
            color=shade,
            marker=shape,
            label=f"{method}, personalised",
        )
        axes.plot(
            of_method[key], of_method.before, color=shade, marker=shape, linestyle=":", label=f"{method}, collective"
        )
    axes.set_xlabel(key)
    axes.set_ylabel(_axis(sweep))
    axes.legend(fontsize=8)
    return figure


def _maps(sweep: Sweep) -> Figure:
    rows = cells(sweep)
    methods = list(dict.fromkeys(rows.method))
    figure = Figure(figsize=(5 * len(methods), 4.5), layout="constrained")
    one, other = sweep.keys
    for axes, method in zip(figure.subplots(1, len(methods), squeeze=False)[0], methods, strict=True):
        grid = rows[rows.method == method].pivot(index=one, columns=other, values="value")
        # As typed, not in the order of text.
        grid = grid.loc[list(dict.fromkeys(rows[one])), list(dict.fromkeys(rows[other]))]
        axes.imshow(grid, cmap="viridis_r" if sweep.lower_is_better else "viridis", aspect="auto")
        for row in range(grid.shape[0]):
            for column in range(grid.shape[1]):
                text = {"ha": "center", "va": "center", "bbox": {"facecolor": "white", "alpha": 0.7, "linewidth": 0}}
                axes.text(column, row, f"{grid.iloc[row, column]:.3f}", **text)
        axes.set_xticks(range(grid.shape[1]), grid.columns)
        axes.set_yticks(range(grid.shape[0]), grid.index)
        axes.set_xlabel(other)
        axes.set_ylabel(one)
        axes.set_title(f"{method}: {_axis(sweep)}")
    return figure


def _axis(sweep: Sweep) -> str:
    return f"{sweep.metric}{', lower is better' if sweep.lower_is_better else ''}"
