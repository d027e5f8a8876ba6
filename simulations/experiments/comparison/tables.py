"""Terminal tables of a comparison: quality, bytes, and what a client sends, trains and keeps."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from simulations.display.tables import BASELINES, BOUNDS, human_bytes, new_table, with_arrow
from simulations.experiments.comparison.schema import (
    BytesToReach,
    ComparedMethod,
    Comparison,
    Control,
    MethodCodecs,
    PairedTest,
    Spread,
)

OVER_BOTH = (
    "95 % CI and p cover users (bootstrap, paired permutation test) and seeds (Student's t), p with Holm's correction "
    "for the tests of the table, the interval as for one alone; ≈: p ≥ 0.05, so they cannot be told apart, which does "
    "not mean that they are equal"
)
"""What the intervals and tests count, stated in the tables' captions."""
ONE_SEED = "; with one seed, the variation between trainings is not covered"

UNCOMMITTED = "run from a checkout with uncommitted changes"


def comparison_tables(report: Comparison) -> list[Table]:
    """Return the tables of quality, of bytes and quality within them, of what a client sends and keeps, of seconds."""
    tables = [_comparison_quality(report), _comparison_bytes(report), _comparison_budgets(report)]
    tables += [_comparison_messages(report), _comparison_seconds(report)]
    if any((row.agreement or row.exchanged) and not _is_served_at_once(row) for row in report.methods):
        tables.append(_comparison_controls(report))
    if any(row.controls for row in report.methods):
        tables.append(_served_otherwise(report))
    return tables


def _comparison_quality(report: Comparison) -> Table:
    seeds = ", ".join(map(str, report.seeds))
    table = new_table(title=f"{report.name}: {report.task}, {report.backbone}, seeds {seeds}")
    titles = ("", with_arrow(report.metric), "before stage 2", f"against {report.reference}", "95 % CI", "p")
    private = any(row.epsilon is not None for row in report.methods)
    for title in (*titles, *(["ε"] if private else [])):
        table.add_column(title, justify="right" if title else "left")
    for name, spread in report.baselines.items():
        table.add_row(BASELINES[name], mean(spread))
    for name, spread in report.bounds.items():
        table.add_row(BOUNDS[name], mean(spread))
    table.add_row("bare backbone", mean(report.base), end_section=True)
    below: dict[str, str] = {}
    for row in report.methods:
        if baseline := report.below_baseline(row.quality.mean):
            below[row.method] = baseline
        before = "–" if _is_served_at_once(row) else mean(row.quality_collective)
        cells = [mean(row.quality) + " †" * (row.method in below), before]
        if against := row.against:
            cells += [f"{against.difference:+.3f}{noise(against)}", interval(against), significance(against)]
        if private:
            cells += [""] * (5 - len(cells)) + ["–" if row.epsilon is None else f"{row.epsilon:.3g}"]
        table.add_row(row.method, *cells)
    table.caption = (
        f"mean ± standard deviation over seeds; {OVER_BOTH}{ONE_SEED if len(report.seeds) == 1 else ''}"
        + differing(report.other_settings)
    )
    if any(_is_served_at_once(row) for row in report.methods):
        table.caption += "; –: no stage 2, users receive an adapter of their own"
    if below:
        name = next(iter(below.values()))
        table.caption += f"; †: worse than {BASELINES[name]}, which needs no model"
    if unclean := [f"{run.method}, seed {run.seed}" for run in report.runs if run.dirty]:
        table.caption += f"; {UNCOMMITTED}: {'; '.join(unclean)}"
    return table


def _is_served_at_once(row: ComparedMethod) -> bool:
    """Tell whether users receive an adapter of their own, and nothing changes it afterwards."""
    untrained = row.learning_rates.personal is None
    return bool(row.controls) and untrained and row.quality == row.quality_collective


def _comparison_controls(report: Comparison) -> Table:
    """Show whether stage 2 personalises: what it gains where only that helps, and what another's history gains."""
    table = new_table(title="does stage 2 personalise?")
    parts = [name for name in ("agree", "differ") if any(name in row.agreement for row in report.methods)]
    controlled = any(row.exchanged for row in report.methods)
    parts_titles = [*(f"user and crowd {name}" for name in parts), "all questions"]
    titles = ["", *(f"{part}: {when}" for part in parts_titles for when in ("before", "after"))]
    for title in [*titles, *(["another's history"] if controlled else [])]:
        table.add_column(title, justify="right" if title else "left")
    for row in report.methods:
        if _is_served_at_once(row):
            continue
        cells = []
        for name in parts:
            scores = row.agreement.get(name)
            cells += [mean(scores[point]) if scores else "–" for point in ("collective", "personalised")]
        cells += [mean(row.quality_collective), mean(row.quality)]
        table.add_row(row.method, *cells, *([mean(row.exchanged) if row.exchanged else "–"] if controlled else []))
    table.caption = f"{report.metric} before and after stage 2"
    if controlled:
        table.caption += "; another's history: after a stage 2 on the next target user's items, from the same stage 1"
    return table


def _served_otherwise(report: Comparison) -> Table:
    """Show what target users would have with what is not theirs, for methods that can tell."""
    table = new_table(title="does a user need its own adapter?")
    for title in ("", with_arrow(report.metric), "own against it", "95 % CI", "p"):
        table.add_column(title, justify="right" if title else "left")
    for row in report.methods:
        if not row.controls:
            continue
        with_own = next(iter(row.controls.values())).own
        table.add_row(f"{row.method}: own", mean(with_own or row.quality_collective))
        for name, cells in controls_cells(row.controls):
            table.add_row(f"{row.method}: {name}", *cells)
    table.caption = f"{report.metric} before any training of the user's; intervals and p as above"
    return table


def controls_cells(controls: dict[str, Control]) -> Iterator[tuple[str, list[str]]]:
    """Yield by control: quality with it, their own adapter against it, the interval, p."""
    for name, control in controls.items():
        gain = control.gain
        test = [f"{gain.difference:+.3f}{noise(gain)}", interval(gain), significance(gain)] if gain else ["–"] * 3
        yield name, [mean(control), *test]


def differing(other_settings: dict[str, dict[str, Any]]) -> str:
    """Describe the settings in which methods differ (`comparable.other_settings`) for a caption; empty if none."""
    return "".join(
        f"; {key} is " + ", ".join(f"{value} ({method})" for method, value in values.items())
        for key, values in other_settings.items()
    )


def noise(test: PairedTest | None) -> str:
    """Return the mark of a difference within noise, or nothing."""
    return " ≈" if test and test.within_noise else ""


def significance(test: PairedTest) -> str:
    """Format a paired test's corrected p-value; resampling gives no more digits."""
    return "< 0.001" if test.p_adjusted < 0.001 else f"{test.p_adjusted:.3f}"


def interval(test: PairedTest) -> str:
    """Format the confidence interval of a paired test's difference."""
    return "–" if test.interval is None else f"{test.interval[0]:+.3f} to {test.interval[1]:+.3f}"


def _comparison_bytes(report: Comparison) -> Table:
    table = new_table(title="bytes of all clients, up and down")
    matched = all(row.bytes_to_match for row in report.methods)
    last = [f"to match {report.reference}"] if matched else []
    for title in ("", "total", *(f"to {share}" for share in report.methods[0].bytes_to_reach), *last):
        table.add_column(title, justify="right" if title else "left")
    for row in report.methods:
        reach = [bytes_reached(item) for item in row.bytes_to_reach.values()]
        if matched and row.bytes_to_match:
            reach.append(bytes_reached(row.bytes_to_match))
        table.add_row(row.method, human_bytes(row.bytes.in_all), *reach)
    matching = (
        f"to match {report.reference}: until it first shows {report.reference}'s final quality; " if matched else ""
    )
    table.caption = (
        "total: stage 1 and one download per target user, without messages that only measure, so less than `fedperfit "
        f"runs` shows; {matching}to x %: until an evaluation first shows x % of {report.best}'s final quality, in "
        f"brackets the range over seeds, or how many reached it, each relative to {report.best} with that seed, not "
        "tested for noise; –: not reached"
    )
    return table


def _comparison_budgets(report: Comparison) -> Table:
    table = new_table(title=f"{report.metric} within a budget of bytes")
    for title in ("", *(human_bytes(item) for item in report.equal_bytes)):
        table.add_column(title, justify="right" if title else "left")
    for row in report.methods:
        qualities = row.quality_at_equal_bytes
        table.add_row(row.method, *("–" if item is None else mean(item) + noise(item.against) for item in qualities))
    table.caption = (
        f"the last quality measured within each budget: {report.reference}'s total, and the smallest in which every "
        f"method was evaluated; ≈: within noise of {report.reference}; –: not evaluated"
    )
    return table


def bytes_reached(to_reach: BytesToReach) -> str:
    """Format the bytes at which the mean curve reaches a quality, with what differs between seeds."""
    reached = [item for item in to_reach.per_seed if item is not None]
    mean = "–" if to_reach.mean_curve is None else human_bytes(to_reach.mean_curve)
    if 0 < len(reached) < len(to_reach.per_seed):
        return f"{mean} ({len(reached)} of {len(to_reach.per_seed)} seeds)"
    least, most = (human_bytes(pick(reached)) for pick in (min, max)) if reached else ("–", "–")
    return mean if least == most else f"{mean} ({least} to {most})"


def _comparison_messages(report: Comparison) -> Table:
    table = new_table(title="what a client sends, trains and keeps")
    coded = any(row.bytes.codecs for row in report.methods)
    titles = ("", "up, per round", "down, per round", "shared", "private", "learning rates")
    for title in (*titles, *(("codec up", "codec down") if coded else ())):
        table.add_column(title, justify="right" if title else "left")
    for row in report.methods:
        rates = row.learning_rates
        table.add_row(
            row.method,
            human_bytes(row.bytes.per_client_round_up),
            human_bytes(row.bytes.per_client_round_down),
            f"{row.params.shared:,}",
            f"{row.params.private:,}",
            ", ".join("–" if rate is None else f"{rate:g}" for rate in (rates.local, rates.personal)),
            *(_codec_cells(row.bytes.codecs) if coded else ()),
        )
    table.caption = "shared, private: parameters; learning rates: of stages 1 and 2"
    if coded:
        table.caption += "; ×: how many times fewer bytes the codec's numbers take than in fp32"
    return table


def _codec_cells(codecs: MethodCodecs | None) -> tuple[str, str]:
    if codecs is None:
        return "–", "–"
    return f"{codecs.up}, {codecs.ratio_up:.1f} ×", f"{codecs.down}, {codecs.ratio_down:.1f} ×"


def _comparison_seconds(report: Comparison) -> Table:
    table = new_table(title="seconds of a client's computation")
    opening = any(row.seconds.opening is not None for row in report.methods)
    for title in ("", *(["opening"] if opening else []), "a round", "stage 2 and evaluation"):
        table.add_column(title, justify="right" if title else "left")
    for row in report.methods:
        shown = [value for part, value in row.seconds if opening or part != "opening"]
        table.add_row(row.method, *("–" if value is None else f"{value:.1f}" for value in shown))
    table.caption = "other work on the machine counts too"
    return table


def mean(spread: Spread) -> str:
    """Format a mean, with its standard deviation over seeds if there are several."""
    return format_mean(spread.mean, spread.std)


def format_mean(value: float | None, deviation: float | None) -> str:
    """Format a mean with its standard deviation, if there is one; a dash for no value."""
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")
