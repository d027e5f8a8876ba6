"""Run records and comparisons as tables in the terminal."""

import math
from typing import Any

from rich.table import Table

from fl_server.records import RunRecord
from strategies.metrics import LOWER_IS_BETTER

OVER_USERS = "users of a seed share its trainings, which the tests do not count as chance"
"""What a test over users leaves out; its table says it."""
UNCOMMITTED = "run from a checkout with changes that were not committed"


def quality_table(record: RunRecord) -> Table:
    """Quality of the bare backbone, the collective shift and the personalised shift on the same target users."""
    table = Table(title=f"{record.name}: {record.task}, {record.users.target} target users, {record.backbone}")
    metrics = [key for key in record.metrics if key != "outside"]
    table.add_column("")
    for key in metrics:
        table.add_column(with_arrow(key), justify="right")
    stages = (
        ("bare backbone", record.metrics_base),
        ("collective shift", record.metrics_collective),
        ("personalised shift", record.metrics),
    )
    for title, values in stages:
        table.add_row(title, *(f"{values[key]:.3f}" for key in metrics))
    table.add_section()
    for title, spread in (("std over users", "std"), ("worst tenth beyond", "p10"), ("best tenth beyond", "p90")):
        table.add_row(f"  {title}", *(f"{record.per_user[key][_spread(key, spread)]:.3f}" for key in metrics))
    if record.oracle:
        table.add_section()
        best = record.oracle
        for title, score in (("best knowing the user", best.personalised), ("best not knowing", best.collective)):
            table.add_row(title, *(f"{score:.3f}" if name == best.metric else "" for name in metrics))
    if record.metrics.get("outside"):
        table.caption = f"{record.metrics['outside']:.1%} of the personalised answers were no answer of the task"
    return table


def _spread(metric: str, key: str) -> str:
    """The percentile that plays a role for `metric`: where less is better, the worst tenth lies above p90."""
    return {"p10": "p90", "p90": "p10"}.get(key, key) if metric in LOWER_IS_BETTER else key


def with_arrow(metric: str) -> str:
    """Return a metric's name, with an arrow where less is better."""
    return f"{metric} ↓" if metric in LOWER_IS_BETTER else metric


def bytes_table(record: RunRecord) -> Table:
    """What crossed between server and clients, from the ledger."""
    table = Table(title="bytes on the wire (serialised messages)")
    for title in ("", "up", "down"):
        table.add_column(title, justify="right" if title else "left")
    counted = record.bytes
    table.add_row(
        "per client and round of stage 1",
        human_bytes(counted.per_client_round_up),
        human_bytes(counted.per_client_round_down),
    )
    table.add_row("in all", human_bytes(counted.up), human_bytes(counted.down))
    table.add_row("  of it tensors", human_bytes(counted.payload_up), human_bytes(counted.payload_down))
    table.caption = f"parameters: {record.params.shared:,} shared, {record.params.private:,} private per user"
    if record.simulated_s is not None:
        table.caption += f"; stage 1 took {record.simulated_s:,.0f} simulated seconds"
    if record.left_out:
        table.caption += f"; {record.left_out} updates failed or were rejected (clients.parquet says whose)"
    if record.over_memory:
        table.caption += f"; {record.over_memory} tasks took more memory than their device has"
    return table


def rows_of(table: Table) -> list[list[str]]:
    """Return a table's cells, row by row, for other places than the terminal."""
    return [list(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)]


def human_bytes(number: float) -> str:
    """Write a number of bytes with three or more digits: `1.23 MB` (powers of 1,000)."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.2f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


def comparison_tables(report: dict[str, Any]) -> list[Table]:
    """Quality of a comparison's methods, the bytes it took, and what a client sends, trains and keeps."""
    return [_comparison_quality(report), _comparison_bytes(report), _comparison_cost(report)]


def _comparison_quality(report: dict[str, Any]) -> Table:
    seeds = ", ".join(map(str, report["seeds"]))
    table = Table(title=f"{report['name']}: {report['task']}, {report['backbone']}, seeds {seeds}")
    titles = ("", with_arrow(report["metric"]), "before stage 2", f"against {report['reference']}", "95 %", "p")
    for title in titles:
        table.add_column(title, justify="right" if title else "left")
    table.add_row("bare backbone", mean(report["base"]), end_section=True)
    for row in report["methods"]:
        cells = [mean(row["quality"]), mean(row["quality_collective"])]
        if against := row["against"]:
            cells += [f"{against['difference']:+.3f}{_noise(against)}", interval(against), significance(against)]
        table.add_row(row["method"], *cells)
    table.caption = (
        "mean ± standard deviation over seeds; 95 %: interval of the difference, by resampling users; ≈: within noise "
        f"(paired test over users, p ≥ 0.05, not corrected for several methods); {OVER_USERS}"
        + differing(report["other_settings"])
    )
    if unclean := [f"{run['method']}, seed {run['seed']}" for run in report["runs"] if run["dirty"]]:
        table.caption += f"; {UNCOMMITTED}: {'; '.join(unclean)}"
    return table


def differing(other_settings: dict[str, dict[str, Any]]) -> str:
    """Say for a caption what compared methods differ in (`comparable.other_settings`); empty if in nothing."""
    return "".join(
        f"; {key} is " + ", ".join(f"{value} ({method})" for method, value in values.items())
        for key, values in other_settings.items()
    )


def _noise(test: dict[str, Any] | None) -> str:
    return " ≈" if test and test["within_noise"] else ""


def significance(test: dict[str, Any]) -> str:
    """Write a paired test's p-value; its resampling does not tell more digits."""
    return "< 0.001" if test["p_value"] < 0.001 else f"{test['p_value']:.3f}"


def interval(test: dict[str, Any]) -> str:
    """Write the interval of a paired test's difference."""
    return "–" if test["interval"] is None else f"{test['interval'][0]:+.3f} to {test['interval'][1]:+.3f}"


def _comparison_bytes(report: dict[str, Any]) -> Table:
    table = Table(title="bytes of all clients, both ways")
    budgets = [human_bytes(each) for each in report["equal_bytes"]]
    titles = ["", "in all", *(f"to {share}" for share in report["methods"][0]["bytes_to_reach"])]
    for title in (*titles, *(f"{report['metric']} at {budget}" for budget in budgets)):
        table.add_column(title, justify="right" if title else "left")
    for row in report["methods"]:
        reach = [bytes_reached(each) for each in row["bytes_to_reach"].values()]
        seen = row["quality_at_equal_bytes"]
        equal = ["–" if each is None else mean(each) + _noise(each["against"]) for each in seen]
        total = human_bytes(row["bytes"]["in_all"])
        table.add_row(row["method"], total, *reach, *equal)
    table.caption = (
        f"to x %: when x % of {report['best']}'s quality was first seen, in brackets seed by seed, of what the best "
        f"did with that seed, not tested for noise; at so many bytes (all {report['reference']} takes, and the fewest "
        "within which every method was seen): the last quality seen within them, ≈: within noise of "
        f"{report['reference']}'s; –: not seen"
    )
    return table


def bytes_reached(found: dict[str, Any]) -> str:
    """Write the bytes at which the mean curve showed a quality, and the range of the seeds' own where they differ."""
    by_seed = sorted(math.inf if each is None else each for each in found["per_seed"])
    least, most = ("–" if math.isinf(each) else human_bytes(each) for each in (by_seed[0], by_seed[-1]))
    mean = "–" if found["mean_curve"] is None else human_bytes(found["mean_curve"])
    return mean if least == most else f"{mean} ({least} to {most})"


def _comparison_cost(report: dict[str, Any]) -> Table:
    table = Table(title="what a client sends, trains and keeps")
    opening = any(row["seconds"]["opening"] is not None for row in report["methods"])
    titles = ["", "up, a round", "down, a round", "shared", "private", "rates", *(["s, opening"] if opening else [])]
    for title in (*titles, "s, a round", "s, personalisation"):
        table.add_column(title, justify="right" if title else "left")
    for row in report["methods"]:
        shown = [value for part, value in row["seconds"].items() if opening or part != "opening"]
        seconds = ("–" if value is None else f"{value:.1f}" for value in shown)
        table.add_row(
            row["method"],
            human_bytes(row["bytes"]["per_client_round_up"]),
            human_bytes(row["bytes"]["per_client_round_down"]),
            f"{row['params']['shared']:,}",
            f"{row['params']['private']:,}",
            ", ".join("–" if rate is None else f"{rate:g}" for rate in row["learning_rates"].values()),
            *seconds,
        )
    table.caption = (
        "shared, private: parameters; rates: of learning, in stages 1 and 2; s: seconds of local computation, "
        "evaluation included in the last"
    )
    return table


def mean(spread: dict[str, Any]) -> str:
    """Write a mean with its deviation over seeds, where there are several (`comparison.spread`)."""
    deviation = spread["std"]
    return f"{spread['mean']:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")
