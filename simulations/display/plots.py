"""The plots: of a run record quality by stage and user and bytes by round, of a comparison its cost curves."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from fl_server.record.schema import read_run
from strategies.metrics.statistics import LOWER_IS_BETTER

# Okabe and Ito's colours: told apart by colour-blind readers.
BASE, _COLLECTIVE, _PERSONAL, _CEILING = "#999999", "#0072B2", "#D55E00", "#000000"
FORMATS: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""What a figure is written as, and what keeps the date out of each."""


def draw(folder: Path) -> list[Path]:
    """Draw a completed run record's plots into its `plots/` folder and return the files."""
    (folder / "plots").mkdir(exist_ok=True)
    figures = {"quality": _quality(folder), "bytes": _bytes(folder)}
    return [path for name, figure in figures.items() for path in save_figure(figure, folder / "plots", name)]


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG, SVG and PDF, for the screen and for papers; the same figure gives the same bytes."""
    paths = [folder / f"{name}.{suffix}" for suffix in FORMATS]
    # Laying out costs as much as drawing: once, not once a format.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    # Without a salt of its own an SVG's ids are drawn at random.
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
    record = read_run(folder)
    metric = record.main_metric
    stages = [("bare backbone", "base", BASE), ("collective", "collective", _COLLECTIVE)]
    stages += [("personalised", "personalised", _PERSONAL)]
    clients = pq.read_table(folder / "clients.parquet").to_pylist()
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for place, (_, stage, shade) in enumerate(stages):
        pooled = {
            "base": record.metrics_base,
            "collective": record.metrics_collective,
            "personalised": record.metrics,
        }
        axes.bar(place, pooled[stage][metric], color=shade, width=0.6, alpha=0.85)
        phase = "evaluate" if stage == "base" else "personalize"
        users = [dict(row["metrics"]).get(f"{stage}.{metric}") for row in clients if row["phase"] == phase]
        points = [value for value in users if value is not None]
        # A fixed fan instead of random jitter: the same record draws the same picture.
        offsets = [0.4 * (number / max(1, len(points) - 1) - 0.5) for number in range(len(points))]
        axes.scatter([place + offset for offset in offsets], points, s=10, color=_CEILING, alpha=0.5, zorder=3)
    if record.oracle and metric == record.oracle.metric:
        axes.axhline(record.oracle.personalised, color=_CEILING, linestyle="--", linewidth=1)
        axes.text(-0.45, record.oracle.personalised, "best reachable", va="bottom", fontsize=8)
    axes.set_xticks(range(len(stages)), [title for title, _, _ in stages])
    axes.set_ylabel(f"{metric}{', lower is better' if metric in LOWER_IS_BETTER else ''} (bar: pooled, dot: one user)")
    axes.set_title(f"{record.method} on {record.task}")
    return figure


def _bytes(folder: Path) -> Figure:
    ledger = pq.read_table(folder / "ledger.parquet")
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
    axes.set_ylabel("bytes so far, MB")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure
