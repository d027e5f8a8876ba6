"""The figures of a comparison: quality against bytes, and against seconds."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from simulations.display.plots import BASE, logarithmic, save_figure
from simulations.display.style import styles
from simulations.experiments.comparison.schema import Comparison


def draw_curves(report: Comparison, curves: pd.DataFrame, folder: Path) -> None:
    """Draw a comparison's cost curves as `curves`, PNG, SVG and PDF: quality against bytes, one line per method.

    A method that sends no tensors is a dashed horizontal line, since a logarithmic axis has no zero.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    free = {row.method for row in report.methods if not row.params.shared}
    looks = styles(curves.method)
    for method, frame in curves.groupby("method", sort=False):
        colour = looks[str(method)].colour
        grouped = frame.groupby("round")
        x, mean = grouped.bytes_total.mean() / 1e6, grouped.value.mean()
        deviation = grouped.value.std().fillna(0)
        if method in free:
            axes.axhline(mean.iloc[-1], color=colour, linestyle="--", label=f"{method!s} (no bytes)")
            continue
        axes.plot(x, mean, marker=looks[str(method)].marker, markersize=4, color=colour, label=method)
        if len(x) == 1:  # a band needs two points
            axes.errorbar(x, mean, yerr=deviation, color=colour, capsize=3)
        axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
    axes.axhline(report.base.mean, color=BASE, linestyle=":", label="bare backbone")
    logarithmic(axes)
    axes.set_xlabel("cumulative bytes, all clients, up and down, MB")
    axes.set_ylabel(_quality_title(report))
    seeds = len(report.seeds)
    band = "s (band: ± one standard deviation)" if seeds > 1 else ""
    axes.set_title(f"{report.task}, {report.backbone}, {seeds} seed{band}")
    axes.legend(fontsize=8)
    save_figure(figure, folder, "curves")


def draw_seconds(report: Comparison, folder: Path) -> None:
    """Draw quality against the seconds of a newcomer's client as `seconds`, PNG, SVG and PDF: one point per method."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    looks = styles(row.method for row in report.methods)
    for row in report.methods:
        if row.seconds.personalize is not None:
            colour, marker = looks[row.method].colour, looks[row.method].marker
            axes.errorbar(
                row.seconds.personalize,
                row.quality.mean,
                yerr=row.quality.std,
                fmt=marker,
                color=colour,
                capsize=3,
                label=row.method,
            )
    axes.axhline(report.base.mean, color=BASE, linestyle=":", label="bare backbone")
    logarithmic(axes)
    axes.set_xlabel("seconds of a newcomer's client: stage 2 and evaluation")
    axes.set_ylabel(_quality_title(report))
    axes.set_title(f"{report.task}, {report.backbone}")
    axes.legend(fontsize=8)
    save_figure(figure, folder, "seconds")


def _quality_title(report: Comparison) -> str:
    lower = ", lower is better" if report.lower_is_better else ""
    return f"{report.metric} of target users after personalisation{lower}"
