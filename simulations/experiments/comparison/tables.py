"""A comparison as tables in the terminal: quality, bytes, and what a client sends, trains and keeps."""

import math
from typing import Any

from rich.table import Table

from simulations.display.tables import human_bytes, with_arrow

OVER_USERS = "users of a seed share its trainings, which the tests do not count as chance"
"""What a test over users leaves out; its table says it."""

UNCOMMITTED = "run from a checkout with changes that were not committed"


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
