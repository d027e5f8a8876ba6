"""The plots of a run record (quality by evaluation point and user, bytes by round) and helpers for all figures."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from fl_server.record.folder import RunFolder
from strategies.metrics.statistics import LOWER_IS_BETTER

# From Okabe and Ito's palette for colour-blind readers.
BASE, _COLLECTIVE, _PERSONAL, _CEILING = "#999999", "#0072B2", "#D55E00", "#000000"
FORMATS: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""File formats of a figure, each with the metadata that keeps the date out."""


def draw(folder: Path) -> list[Path]:
    """Draw a completed run record's plots into its `plots/` folder and return the files."""
    (folder / "plots").mkdir(exist_ok=True)
    figures = {"quality": _quality(folder), "bytes": _bytes(folder)}
    return [path for name, figure in figures.items() for path in save_figure(figure, folder / "plots", name)]


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG, SVG and PDF; the same figure gives the same bytes."""
    paths = [folder / f"{name}.{suffix}" for suffix in FORMATS]
    # Layout costs as much as drawing, so do it once, not once per format.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    # Without a fixed salt, an SVG's ids are random.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        for path, undated in zip(paths, FORMATS.values(), strict=True):
            figure.savefig(path, dpi=150, metadata=undated)
    return paths


def logarithmic(axes: Axes) -> None:
    """Make the x axis logarithmic, labelled in plain numbers at 1, 2 and 5."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _quality(folder: Path) -> Figure:
    record = RunFolder(folder).record
    metric = record.main_metric
    points = [("bare backbone", "base", BASE), ("collective", "collective", _COLLECTIVE)]
    points += [("personalised", "personalised", _PERSONAL)]
    clients = RunFolder(folder).clients().to_pylist()
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for position, (_, point, shade) in enumerate(points):
        pooled = {
            "base": record.metrics_base,
            "collective": record.metrics_collective,
            "personalised": record.metrics,
        }
        axes.bar(position, pooled[point][metric], color=shade, width=0.6, alpha=0.85)
        phase = "evaluate" if point == "base" else "personalize"
        of_targets = [row for row in clients if row["phase"] == phase and row["user"] >= record.users.collective]
        users = [dict(row["metrics"]).get(f"{point}.{metric}") for row in of_targets]
        values = [value for value in users if value is not None]
        # A fixed spread instead of random jitter, so that the same record gives the same figure.
        offsets = [0.4 * (number / max(1, len(values) - 1) - 0.5) for number in range(len(values))]
        axes.scatter([position + offset for offset in offsets], values, s=10, color=_CEILING, alpha=0.5, zorder=3)
    if record.oracle and metric == record.oracle.metric:
        axes.axhline(record.oracle.personalised, color=_CEILING, linestyle="--", linewidth=1)
        axes.text(-0.45, record.oracle.personalised, "oracle, user known", va="bottom", fontsize=8)
    axes.set_xticks(range(len(points)), [title for title, _, _ in points])
    axes.set_ylabel(f"{metric}{', lower is better' if metric in LOWER_IS_BETTER else ''} (bar: pooled, dot: one user)")
    axes.set_title(f"{record.method} on {record.task}")
    return figure


def _bytes(folder: Path) -> Figure:
    ledger = RunFolder(folder).ledger()
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for direction, shade in (("up", _COLLECTIVE), ("down", _PERSONAL)):
        rows = ledger.filter(pc.equal(ledger["direction"], direction))
        sums = dict(
            zip(
                *rows.group_by("round").aggregate([("message_bytes", "sum")]).to_pydict().values(),
                strict=True,
            )
        )
        rounds = sorted(sums)
        total, steps = 0, []
        for number in rounds:
            total += sums[number]
            steps.append(total / 1e6)
        axes.step(
            rounds,
            steps,
            where="post",
            color=shade,
            label=f"{direction}: clients → server" if direction == "up" else f"{direction}: server → clients",
        )
    axes.set_xlabel("round (0: roll call and first evaluation; the last includes personalisation)")
    axes.set_ylabel("cumulative bytes, MB")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure
