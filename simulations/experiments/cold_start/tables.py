"""Terminal tables of a cold-start experiment."""

from itertools import groupby

from rich.table import Table

from simulations.display.tables import BASELINES, WORST, human_bytes, new_table, with_arrow
from simulations.experiments.cold_start.findings import NEAR
from simulations.experiments.cold_start.schema import (
    ColdStart,
    CompositionRow,
    ControlsRow,
    Difference,
    NewcomerRow,
    NumberRow,
    TaskSettings,
    Transfer,
)
from simulations.experiments.comparison.tables import (
    ONE_SEED,
    OVER_BOTH,
    UNCOMMITTED,
    controls_cells,
    differing,
    format_mean,
    interval,
    mean,
    significance,
)
from strategies.metrics.statistics import is_worse


def cold_start_tables(report: ColdStart) -> list[Table]:
    """Return the contents of `cold_start.json` as tables."""
    tables: list[Table] = []
    by_task = groupby(report.numbers, lambda row: row.task)
    for (_, group), what in zip(by_task, report.settings, strict=True):
        rows = list(group)
        tables += [_numbers_table(rows, what), _behind_the_means_table(rows)]
    if report.uncommitted:
        tables[0].caption = f"{tables[0].caption}; {UNCOMMITTED}: {', '.join(report.uncommitted)}"
    for _, differences in groupby(report.differences, lambda row: row.task):
        tested = list(differences)
        tables += [_differences_table(tested, len(report.differences)), _behind_the_differences_table(tested)]
    for _, newcomers in groupby(report.newcomers, lambda row: row.task):
        served = list(newcomers)
        tables += [_newcomers_table(served), _histories_table(served)]
    if report.controls:
        tables.append(_controls_table(report.controls, explained=bool(report.differences)))
    if report.compositions:
        tables.append(_compositions_table(report.compositions))
    if report.transfer:
        tables.append(_transfer_table(report.transfer))
    return tables


def _numbers_table(rows: list[NumberRow], what: TaskSettings) -> Table:
    """One task of the paper's Table 14."""
    seeds = ", ".join(map(str, what.seeds))
    title = f"{what.task}, {what.backbone}, seeds {seeds}: newcomers by the number of collective users"
    table = _table(title, "users", "method", with_arrow(rows[0].metric), "before stage 2", "bytes")
    for name, spread in what.baselines.items():
        table.add_row("", BASELINES[name], mean(spread))
    table.add_row("", "bare backbone", mean(what.base), end_section=True)
    trivial = [spread.mean for spread in what.baselines.values()]
    below = [row for row in rows if any(is_worse(row.value, score, row.metric) for score in trivial)]
    for _, together in groupby(rows, lambda row: row.collective):
        for row in together:
            table.add_row(
                str(row.collective),
                row.method,
                format_mean(row.value, row.value_deviation) + " †" * (row in below),
                format_mean(row.value_collective, row.value_collective_deviation),
                human_bytes(row.bytes_total),
            )
        table.add_section()
    table.caption = (
        "mean ± standard deviation over seeds; quality is pooled over all questions; bytes: all clients, with one "
        f"download per target user; target users: {what.target_users}; rounds: {what.rounds}; cohort: "
        + ", ".join(f"{cohort} (of {count})" for count, cohort in what.cohorts.items())
        + differing(what.other_settings)
    )
    if below:
        table.caption += "; †: worse than the best answer that needs no model"
    return table


def _behind_the_means_table(rows: list[NumberRow]) -> Table:
    """What a mean hides: the second metric, the worst-served users and those with the shortest histories."""
    second = [with_arrow(rows[0].second_metric)] if rows[0].second_metric else []
    quarters = any(row.q1 is not None for row in rows)
    titles = ("users", "trained", "method", *second, WORST, *(["by history quarter"] if quarters else []))
    table = _table("behind the means", *titles)
    for _, together in groupby(rows, lambda row: row.collective):
        for row in together:
            cells = [format_mean(row.second_value, row.second_value_deviation)] if row.second_value is not None else []
            cells.append(f"{row.worst_decile:.3f}")
            if quarters:
                cells.append(" / ".join(f"{quarter:.2f}" for quarter in (row.q1, row.q2, row.q3, row.q4)))
            table.add_row(str(row.collective), f"{row.trained:.0f}", row.method, *cells)
        table.add_section()
    table.caption = (
        f"trained: collective users that trained in stage 1; {WORST}: 90 % of a seed's target users do at least this "
        "well"
    )
    if quarters:
        table.caption += "; by history quarter: means over users, the shortest histories first"
    return table


def _differences_table(rows: list[Difference], tests: int) -> Table:
    one_number = all(row.one.collective == row.other.collective for row in rows)
    title = "method against method" if one_number else "few collective users against many"
    title = f"{title}: {rows[0].task}, {with_arrow(rows[0].metric)}"
    table = _table(title, "A", "B", "difference", "95 % CI", "p")
    for row in rows:
        noise = " ≈" if row.within_noise else ""
        table.add_row(*_sides(row), f"{row.difference:+.3f}{noise}", interval(row), significance(row))
    table.caption = f"difference: A minus B, mean over users; {OVER_BOTH}" + (
        ONE_SEED if any(row.p_seeds is None for row in rows) else ""
    )
    if tests > len(rows):
        table.caption += f"; the correction is for the {tests} tests of all tasks"
    return table


def _behind_the_differences_table(rows: list[Difference]) -> Table:
    several = max(len(row.per_seed) for row in rows) > 1
    table = _table("behind the differences", "A", "B", *(["by seed"] if several else []), WORST, "target users")
    for row in rows:
        seeds = [" ".join(f"{item:+.3f}" for item in row.per_seed)] if several else []
        worst = f"{row.one.worst_decile:.3f} / {row.other.worst_decile:.3f}"
        table.add_row(*_sides(row), *seeds, worst, str(row.users))
    table.caption = f"{WORST}: of A's and of B's target users" + ("; by seed: A minus B" if several else "")
    return table


def _sides(row: Difference) -> list[str]:
    return [f"{side.method} with {side.collective}" for side in (row.one, row.other)]


def _newcomers_table(rows: list[NewcomerRow]) -> Table:
    near = f"epochs to {NEAR:.0%}"
    title = f"what a newcomer costs: {rows[0].task}, {with_arrow(rows[0].metric)}"
    uploads = any(row.upload_bytes for row in rows)
    table = _table(title, "method", "users", "download", *(["upload"] if uploads else []), near, "of", "steps", "s")
    for row in rows:
        reached = row.near_final
        tried = ", ".join(map(str, row.epochs_tried))
        per_seed = ["–" if epochs is None else str(epochs) for epochs in row.near_final_per_seed]
        if len(per_seed) > 1:
            tried += f" ({', '.join(per_seed)})"
        table.add_row(
            row.method,
            str(row.collective),
            human_bytes(row.download_bytes),
            *([human_bytes(row.upload_bytes)] if uploads else []),
            str(reached.epochs) if reached else "–",
            tried,
            f"{reached.steps:.0f}" if reached else "–",
            f"{reached.seconds:.1f}" if reached and reached.seconds is not None else "–",
        )
    table.caption = (
        f"{near}: the fewest epochs, of those tried, from which all larger numbers reach {NEAR:.0%} of the final "
        "quality, each in a separate run of stage 2, in brackets for each seed; 0: what it is sent; steps, "
        "s: of that run, s with evaluation before and after, on the machine used"
    )
    return table


def _histories_table(rows: list[NewcomerRow]) -> Table:
    levels = list(dict.fromkeys(items for row in rows for items in row.by_history))
    table = _table("quality by history items", "method", "users", *levels)
    averages: dict[str, float] = {}
    steps = any(level.steps for row in rows for level in row.by_history.values())
    for row in rows:
        cells = []
        for items in levels:
            level = row.by_history.get(items)
            cells.append(f"{level.mean:.3f} ({level.worst_decile:.3f})" if level else "–")
            if level and items.isdecimal() and level.items < float(items):
                averages[items] = level.items
        table.add_row(row.method, str(row.collective), *cells)
    table.caption = (
        f"in brackets: the {WORST}"
        + "; fewer items mean fewer steps, since the number of epochs is the same" * steps
        + "".join(f"; {items}: {average:.1f} on average" for items, average in averages.items())
    )
    return table


def _controls_table(rows: list[ControlsRow], *, explained: bool) -> Table:
    """What newcomers have with what is not theirs; intervals and p are explained unless another table does."""
    titles = ("task", "method", "users", "served with", "quality", "own against it", "95 % CI", "p")
    table = _table("does a newcomer need its own adapter?", *titles)
    for row in rows:
        first = [f"{row.task}, {with_arrow(row.metric)}", row.method, str(row.collective)]
        if with_own := next(iter(row.controls.values())).own:
            table.add_row(*first, "its own", mean(with_own), "", "", "")
        for name, cells in controls_cells(row.controls):
            table.add_row(*first, name, *cells)
        table.add_section()
    table.caption = f"before any training of the newcomer's; {'intervals and p as above' if explained else OVER_BOTH}"
    return table


def _compositions_table(rows: list[CompositionRow]) -> Table:
    titles = ("task", "method", "users", "per group", "mean", WORST, "variance", "range")
    table = _table("composition of the collective users: groups of one size, the same target users", *titles)
    for row in rows:
        table.add_row(
            f"{row.task}, {with_arrow(row.metric)}",
            row.method,
            str(row.collective),
            " ".join(f"{value:.3f}" for value in row.groups),
            f"{row.mean:.3f}",
            "" if row.worst_decile is None else f"{row.worst_decile:.3f}",
            f"{row.variance:.2e}",
            f"{row.range:.3f}",
        )
    table.caption = "variance and range: over the groups of a seed, averaged over seeds"
    return table


def _transfer_table(transfer: Transfer) -> Table:
    title = f"transfer of the collective shift of {transfer.collective} users: trained on (row), used on (column)"
    columns = (f"{task}, {with_arrow(metric)}" for task, metric in transfer.metrics.items())
    table = _table(title, "method", "trained on", *columns)
    for method, matrices in transfer.methods.items():
        for source, values in matrices.value.items():
            deviation, worst = matrices.deviation[source], matrices.worst_decile[source]
            cells = [f"{format_mean(values[task], deviation[task])} ({worst[task]:.3f})" for task in transfer.metrics]
            table.add_row(method, source, *cells)
        table.add_section()
    table.caption = (
        f"mean ± standard deviation over seeds, in brackets the {WORST}; sites, positions, ranks (the private one too) "
        "and stage 2's learning rate are those of the task that the shift was trained on"
    )
    return table


def _table(title: str, *titles: str) -> Table:
    table = new_table(title=title)
    for name in titles:
        left = name in ("task", "method", "A", "B", "trained on", "served with")
        # Folded, so that a narrow terminal cuts nothing off.
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    return table
