"""The report's page: tables and figures in one self-contained HTML file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from configs.errors import InputError
from configs.files import write_atomic
from configs.load import flatten
from simulations.display.tables import BASELINES, human_bytes, rows_of
from simulations.experiments.audit.tables import audit_tables
from simulations.experiments.cold_start.findings import main_rows, transfers
from simulations.experiments.cold_start.schema import ColdStart
from simulations.experiments.cold_start.tables import cold_start_tables
from simulations.experiments.comparison.tables import comparison_tables
from simulations.experiments.sweep.schema import Sweep
from simulations.experiments.sweep.tables import sweep_table
from simulations.report import cold_start_figures as cold_start
from simulations.report import figures, first_screen, privacy, stages, sweep_figures, time_figures
from simulations.report.gather import ReportData, ReportRun, gather_report
from simulations.report.static_figures import write_figures
from strategies.metrics.statistics import LOWER_IS_BETTER, is_worse

_HERE = Path(__file__).parent


def write_page(paths: Sequence[Path | str], out: Path | str, figures: Path | str | None = None) -> Path:
    """Write a report; only the owner can read one on real users, since it quotes their texts.

    Args:
        paths: Folders of run records, comparisons, cold-start experiments, sweeps, audits.
        out: The HTML file.
        figures: A folder for every figure as PNG, SVG and PDF; None: write the page only.

    Raises:
        InputError: There is nothing to show, a file cannot be written, or a package for figures is not installed.
    """
    out = Path(out)
    gathered = gather_report([Path(path) for path in paths])
    if not gathered.runs:
        raise InputError(f"{', '.join(map(str, paths)) or 'a report'}: no runs")
    page, drawn = render(gathered)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        texts = any(run.record.users.source != "synthetic" for run in gathered.runs)
        # A traceback may hold half a surrogate pair.
        write_atomic(out, page.encode(errors="replace"), private=texts)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", field="out", value=out) from None
    if figures:
        write_figures(drawn, Path(figures), texts)
    return out


def render(gathered: ReportData) -> tuple[str, dict[str, go.Figure]]:
    """Return a report's HTML, and its figures by name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"bytes": human_bytes, "rows": rows_of, "number": _number}
    plots = _Plots()
    completed = [run for run in gathered.runs if run.completed]
    tasks = {run.config.task: [one for one in completed if one.config.task == run.config.task] for run in completed}
    promises = privacy.promises(completed)
    context = {
        "title": first_screen.title_of(gathered),
        "sentences": first_screen.sentences(gathered),
        "summaries": [(report.name, first_screen.summary(report)) for report in gathered.comparisons],
        "sections": _sections(gathered, promises is not None or bool(gathered.audits)),
        "runs": gathered.runs,
        "own_figures": [(run.label, words) for run in completed if (words := _own_figures(run))],
        "different": _settings(gathered.runs, different=True),
        "same": _settings(gathered.runs, different=False),
        "tasks": [_task(task, runs, plots) for task, runs in tasks.items()],
        "groups": plots.add("bytes", figures.bytes_by_group(completed)) if completed else None,
        "phases": plots.add("bytes-by-phase", figures.bytes_by_phase(completed)) if completed else None,
        "simulated": plots.maybe("simulated-time", time_figures.simulated_time(gathered.runs)),
        "partitions": [
            (run.label, plots.maybe(f"partitions-{run.label}", time_figures.partitions(run))) for run in gathered.runs
        ],
        "comparisons": [(report.name, comparison_tables(report)) for report in gathered.comparisons],
        "sweeps": [_sweep(report, plots) for report in gathered.sweeps],
        "cold_starts": [_cold_start(rows, report, plots) for rows, report in gathered.cold_starts],
        "promises": promises,
        "epsilon": plots.maybe("epsilon-by-round", privacy.epsilon_by_round(completed)),
        "audits": [(report.name, audit_tables(report)) for report in gathered.audits],
        "faults": [fault for run in gathered.runs for fault in _faults(run)],
        "predictions": gathered.predictions,
        "predictions_cut": gathered.predictions_cut,
    }
    template = environment.get_template("page.html")
    page = template.render(
        **context,
        plots=plots.all,
        baselines=BASELINES,
        is_worse=is_worse,
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )
    return page, plots.named


def _sections(gathered: ReportData, has_privacy: bool) -> list[tuple[str, str]]:
    """The anchors of the page and what the navigation calls them."""
    several = len(gathered.comparisons) > 1
    tables = [
        (f"comparison-{place}", f"tests: {report.name}" if several else "tests")
        for place, report in enumerate(gathered.comparisons, 1)
    ]
    tables += [(f"cold-start-{place}", "cold start") for place, _ in enumerate(gathered.cold_starts, 1)]
    tables += [(f"sweep-{place}", "sweep") for place, _ in enumerate(gathered.sweeps, 1)]
    if has_privacy:
        tables.append(("privacy", "privacy"))
    names = ("runs", "settings", "machine", "faults", "predictions")
    first = [("result", "result"), ("quality", "users"), ("bytes", "bytes")]
    return [*first, *tables, *((name, name) for name in names)]


class _Plots:
    """The figures of a page, by number as JSON for Plotly and by name for files."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self.named: dict[str, go.Figure] = {}

    def add(self, name: str, figure: go.Figure, choices: dict[str, Any] | None = None) -> int:
        self.all.append({**json.loads(figure.to_json()), "choices": choices})
        self.named[name] = figure
        return len(self.all) - 1

    def maybe(self, name: str, figure: go.Figure | None) -> int | None:
        return None if figure is None else self.add(name, figure)


def _task(task: str, runs: list[ReportRun], plots: _Plots) -> dict[str, Any]:
    """The figures and the table about users of the completed runs of one task."""
    trained = [run for run in runs if not run.config.start_from]
    # A curve of one point says nothing.
    curves = figures.cost_curves(trained) if trained and not stages.is_one_point(runs) else None
    return {
        "name": task,
        "curves": plots.add(f"{task}-cost-curves", *curves) if curves else None,
        "stages": None if curves else plots.add(f"{task}-stages", stages.quality_by_stage(runs)),
        "rounds": plots.maybe(f"{task}-quality-by-round", figures.quality_by_round(trained)) if trained else None,
        "loss": plots.maybe(f"{task}-loss", figures.loss_by_round(trained)) if trained else None,
        "users": plots.add(f"{task}-users", figures.per_user(runs)),
        "distribution": plots.add(f"{task}-distribution", figures.distribution(runs)),
        "seconds": plots.maybe(f"{task}-quality-by-seconds", time_figures.quality_by_seconds(runs)),
        "gains": [_gains(run) for run in runs],
    }


def _gains(run: ReportRun) -> dict[str, Any]:
    frame = figures.users_of(run)
    gain = (frame.after - frame.before) * (-1 if run.metric in LOWER_IS_BETTER else 1)
    ranked = pd.Series(gain.to_numpy(), index=frame.user_id).sort_values(kind="stable")
    spread = run.record.per_user.get(run.metric, {})
    worst = spread.get("p90" if run.metric in LOWER_IS_BETTER else "p10")
    return {
        "label": run.label,
        "mean": spread.get("mean"),
        "std": spread.get("std"),
        "worst": worst,
        "better": int((gain > 0).sum()),
        "same": int((gain == 0).sum()),
        "worse": int((gain < 0).sum()),
        "most": ", ".join(f"{user} {value:+.2f}" for user, value in ranked.tail(3)[::-1].items() if value > 0),
        "least": ", ".join(f"{user} {value:+.2f}" for user, value in ranked.head(3).items() if value < 0),
    }


def _cold_start(rows: pd.DataFrame, report: ColdStart, plots: _Plots) -> dict[str, Any]:
    name = report.name
    drawn = []
    for task in dict.fromkeys(main_rows(rows).task):
        for against, draw in (
            ("the number of collective users", cold_start.quality_by_number),
            ("bytes", cold_start.quality_by_bytes),
            ("their history items", cold_start.quality_by_history),
        ):
            number = plots.maybe(f"{name}-{task}-{draw.__name__.replace('_', '-')}", draw(rows, task))
            if number is not None:
                drawn.append((f"quality of newcomers in {task} against {against}", number))
    for method in dict.fromkeys(transfers(rows).method):
        number = plots.add(f"{name}-transfer-{method}", cold_start.transfer_map(rows, method))
        drawn.append((f"{method}: quality by the task a collective shift was trained on and used on", number))
    return {"name": name, "plots": drawn, "tables": cold_start_tables(report)}


def _sweep(sweep: Sweep, plots: _Plots) -> dict[str, Any]:
    drawn = []
    if len(sweep.keys) == 1:
        drawn.append((f"quality by {sweep.keys[0]}", plots.add(f"{sweep.name}-sweep", sweep_figures.by_one_key(sweep))))
    if len(sweep.keys) == 2:
        for method in dict.fromkeys(cell.method for cell in sweep.cells):
            figure = sweep_figures.by_two_keys(sweep, method)
            title = f"{method}: quality by {' and '.join(sweep.keys)}"
            drawn.append((title, plots.add(f"{sweep.name}-sweep-{method}", figure)))
    return {"name": sweep.name, "plots": drawn, "tables": [sweep_table(sweep)]}


def _settings(runs: Sequence[ReportRun], different: bool) -> list[tuple[str, list[Any]]]:
    """The config's keys with their values by run: those that differ, or those that are the same in all runs."""
    flat = [flatten(run.config) for run in runs]
    rows = []
    for key in sorted({key for config in flat for key in config}):
        values = [config.get(key, "") for config in flat]
        if any(value != values[0] for value in values) == different:
            rows.append((key, values if different else values[:1]))
    return rows


def _own_figures(run: ReportRun) -> str:
    """List what a run's method measured itself: in stage 2, means over users, and in the last round of stage 1."""
    shown = {f"{name} of a user": value for name, value in run.record.figures.items()}
    for name in map(str, run.rounds):
        values = run.rounds[name].dropna()
        if name.startswith("aggregation.") and len(values):
            shown[name.removeprefix("aggregation.")] = float(values.iloc[-1])
    return ", ".join(f"{name} {value:.3g}" for name, value in shown.items())


def _faults(run: ReportRun) -> list[dict[str, Any]]:
    """Faults of a run: failed attempts, updates left out, devices with too little memory."""
    faults = [
        {
            "run": run.label,
            "round": error["round"],
            "phase": error["phase"],
            "user": error["user"],
            "what": f"attempt {error.get('attempt', 1)} failed",
            "detail": error["traceback"],
        }
        for error in run.errors
    ]
    left_out = run.clients[run.clients.status.str.startswith("rejected") | run.clients.status.isin(["dropped", "late"])]
    for row in left_out.itertuples():
        where = {"run": run.label, "round": row.round, "phase": row.phase, "user": row.user}
        faults.append({**where, "what": row.status, "detail": ""})
    for task in run.clients[run.clients.over_memory.eq(True)].to_dict("records"):
        what = f"needed {human_bytes(task['peak_memory_bytes'])}, more than its device ({task['device']}) has"
        where = {key: task[key] for key in ("round", "phase", "user")}
        faults.append({"run": run.label, **where, "what": what, "detail": ""})
    return faults


def _number(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.3f}"
