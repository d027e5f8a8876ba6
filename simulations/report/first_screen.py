"""What a report opens with: a title, a few sentences with their uncertainty, and one table."""

from typing import Any

from simulations.display.tables import human_bytes, sentence, with_arrow
from simulations.experiments.cold_start.schema import ColdStart, Difference
from simulations.experiments.comparison.schema import Comparison, PairedTest
from simulations.experiments.comparison.tables import bytes_reached, mean
from simulations.experiments.sweep.schema import Sweep
from simulations.report.gather import ReportData

_NAMED_METHODS = 3
"""Methods that the first sentence names; of more, the first and the best."""
_MOST_SENTENCES = 8
"""Runs without a comparison that get a sentence each."""


def title_of(gathered: ReportData) -> str:
    """Say what was compared, or name the runs."""
    if len(gathered.comparisons) == 1 and not gathered.cold_starts:
        report = gathered.comparisons[0]
        names = [row.method for row in report.methods]
        listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
        return f"{listed} on {_task_title(report.task)}: {report.metric} against bytes"
    if len(gathered.cold_starts) == 1 and not gathered.comparisons:
        _, cold = gathered.cold_starts[0]
        numbers = sorted({row.collective for row in cold.numbers})
        return f"Newcomers after {' or '.join(map(str, numbers))} collective users"
    if len(gathered.sweeps) == 1 and not gathered.comparisons:
        swept = gathered.sweeps[0]
        methods = ", ".join(dict.fromkeys(cell.method for cell in swept.cells))
        return f"{methods}: {swept.metric} by {' and '.join(swept.keys)}"
    if len(gathered.runs) == 1:
        record = gathered.runs[0].record
        return f"{record.method} on {_task_title(record.task)}, {record.users.target} target users"
    return gathered.title


def sentences(gathered: ReportData) -> list[str]:
    """Say what the comparisons, cold starts or runs found."""
    several = len(gathered.comparisons) > 1
    lines = []
    for report in gathered.comparisons:
        first, *rest = _of_comparison(report)
        lines += [f"{report.name}: {first}" if several else first, *rest]
    lines += [line for _, cold in gathered.cold_starts for line in _of_cold_start(cold)]
    lines += [_of_sweep(sweep) for sweep in gathered.sweeps]
    alone = [run for run in gathered.runs if run.completed and run.alone]
    return lines + [f"{sentence(run.record)}." for run in alone][:_MOST_SENTENCES]


def _of_comparison(report: Comparison) -> list[str]:
    first, *others = report.methods
    # The table has them all.
    named = (
        report.methods
        if len(report.methods) <= _NAMED_METHODS
        else [first, *(m for m in others if m.method == report.best)]
    )
    reached = [f"{row.method} reaches {mean(row.quality)} with {human_bytes(row.bytes.in_all)}" for row in named]
    if len(named) < len(report.methods) and len(named) > 1:
        reached[-1] = f"the best, {reached[-1].replace(' reaches', ', reaches', 1)}"
    over = f"{len(report.seeds)} seeds and {report.users.target} users" if len(report.seeds) > 1 else "users, one seed"
    metric = report.metric + (", lower is better" if report.lower_is_better else "")
    lines = [f"{metric[0].upper()}{metric[1:]}: {'; '.join(reached)}."]
    lines += _at_equal_quality(report)
    tested = [(row.method, row.against) for row in others if row.against is not None]
    if noise := [f"{name} by {test.difference:+.3f}" for name, test in tested if test.within_noise]:
        p = _p_range([test for _, test in tested if test.within_noise])
        lines.append(f"Different from {first.method} within noise (over {over}): {', '.join(noise)} ({p}).")
    if clear := [f"{name} by {test.difference:+.3f}" for name, test in tested if not test.within_noise]:
        p = _p_range([test for _, test in tested if not test.within_noise])
        lines.append(f"Different from {first.method} by more than noise: {', '.join(clear)} ({p}).")
    return lines


def _at_equal_quality(report: Comparison) -> list[str]:
    """Say which methods reach the first one's final quality, and with how many bytes."""
    first, *others = report.methods
    if first.bytes_to_match is None:
        return []
    needed = [(row.bytes_to_match.mean_curve, row.method) for row in report.methods if row.bytes_to_match]
    costs = sorted((count, name) for count, name in needed if count is not None)
    quality = f"{first.method}'s final quality ({first.quality.mean:.3f})"
    if len(costs) < 2:
        return [f"No other method reaches {quality}."] if others else []
    (least, cheapest), *rest = costs
    listed = [f"{human_bytes(count)} for {name}" for count, name in rest]
    return [f"At {quality}, {cheapest} is cheapest: {human_bytes(least)}, against {', '.join(listed)}."]


def _of_cold_start(cold: ColdStart) -> list[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for row in cold.numbers:
        value = f"{row.value:.3f}" + (f" ± {row.value_deviation:.3f}" if row.value_deviation is not None else "")
        groups.setdefault((row.task, row.method), []).append(f"{value} after {row.collective}")
    lines = [
        f"{_task_title(task).capitalize()}, {method}: {' and '.join(values)} collective users."
        for (task, method), values in groups.items()
    ]
    return lines[:_MOST_SENTENCES] + [_difference(each) for each in cold.differences[:2]]


def _of_sweep(sweep: Sweep) -> str:
    ranked = sorted(sweep.cells, key=lambda cell: cell.quality.mean, reverse=not sweep.lower_is_better)
    best, worst = (
        f"{mean(cell.quality)} with {', '.join(f'{k}={v}' for k, v in zip(sweep.keys, cell.values, strict=True))}"
        for cell in (ranked[0], ranked[-1])
    )
    lead = f"{sweep.metric[0].upper()}{sweep.metric[1:]}: best {best}, worst {worst}"
    tests = [cell.against_best for cell in sweep.cells if cell.against_best]
    differ = sum(not test.within_noise for test in tests)
    told = f"{differ} of {len(tests)} others can be told from the best" if tests else "not tested for noise"
    return f"{lead}; of {len(ranked)} combinations, {told}."


def _difference(difference: Difference) -> str:
    one, other = (f"{side.method} with {side.collective}" for side in (difference.one, difference.other))
    verdict = "within noise" if difference.within_noise else "more than noise"
    task = _task_title(difference.task)
    return (
        f"In {task}, {one} differs from {other} by {difference.difference:+.3f}, {verdict} ({_p_range([difference])})."
    )


def _p_range(tests: list[PairedTest]) -> str:
    values = sorted(test.p_adjusted for test in tests)
    shown = ["< 0.001" if value < 0.001 else f"= {value:.2f}" for value in (values[0], values[-1])]
    return f"p {shown[0]}" if shown[0] == shown[1] else f"p {shown[0]} to {shown[1].removeprefix('= ')}"


def summary(report: Comparison) -> dict[str, Any]:
    """Return the one table of a comparison: titles, what they mean, and a row of cells per method."""
    share = "95%" if "95%" in report.methods[0].bytes_to_reach else next(iter(report.methods[0].bytes_to_reach))
    columns = [
        ("method", ""),
        (with_arrow(report.metric), "after personalisation, over all questions; mean ± standard deviation over seeds"),
        ("before stage 2", "the same with the collective part only"),
        ("bytes in all", "stage 1 of all clients and one download per target user, serialised, up and down"),
        (f"bytes to {share} of the best", f"until an evaluation first shows {share} of {report.best}'s final quality"),
        ("seconds a round", "of one client's computation; other work on the machine counts too"),
    ]
    rows = [
        [
            row.method,
            mean(row.quality),
            mean(row.quality_collective),
            human_bytes(row.bytes.in_all),
            bytes_reached(row.bytes_to_reach[share]),
            "–" if row.seconds.train is None else f"{row.seconds.train:.1f}",
        ]
        for row in report.methods
    ]
    return {"columns": columns, "rows": rows}


def _task_title(task: str) -> str:
    return task.replace("_", " ")
