"""Terminal tables of a cold-start experiment."""

from itertools import groupby

from rich.table import Table

from simulations.display.tables import BASELINES, WORST, human_bytes, new_table, with_arrow
from simulations.experiments.cold_start.findings import NEAR
from simulations.experiments.cold_start.schema import (
    ColdStart,
    CompositionRow,
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
    differing,
    format_mean,
    interval,
    mean,
    significance,
)


def cold_start_tables(report: ColdStart) -> list[Table]:
    """Return the contents of `cold_start.json` as tables."""
    by_task = groupby(report.numbers, lambda row: row.task)
    tables = [_numbers_table(list(own), what) for (_, own), what in zip(by_task, report.settings, strict=True)]
    if report.uncommitted:
        tables[0].caption = f"{tables[0].caption}; {UNCOMMITTED}: {', '.join(report.uncommitted)}"
    if report.differences:
        tables.append(_differences_table(report.differences))
    tables.append(_newcomers_table(report.newcomers))
    if report.compositions:
        tables.append(_compositions_table(report.compositions))
    if report.transfer:
        tables.append(_transfer_table(report.transfer))
    return tables


def _numbers_table(found: list[NumberRow], what: TaskSettings) -> Table:
    """One task of the paper's Table 14, with what a mean hides: the worst-served users and the shortest histories."""
    metrics = [found[0].metric, found[0].second_metric]
    names = [with_arrow(metric) for metric in metrics if metric]
    titles = ["users", "trained", "method", *names, "before stage 2", WORST, "bytes"]
    quarters = any(row.q1 is not None for row in found)
    seeds = ", ".join(map(str, what.seeds))
    title = f"{what.task}, {what.backbone}, seeds {seeds}: newcomers by the number of collective users"
    table = _table(title, *titles, *(["by history quarter"] if quarters else []))
    for name, spread in what.baselines.items():
        table.add_row("", "", BASELINES[name], mean(spread))
    table.add_row("", "", "bare backbone", mean(what.base), end_section=True)
    best = max((spread.mean for spread in what.baselines.values()), default=None)
    below = [row for row in found if best is not None and row.value < best]
    for _, together in groupby(found, lambda row: row.collective):
        for row in together:
            values = [format_mean(row.value, row.value_deviation) + " †" * (row in below)]
            if row.second_value is not None:
                values.append(format_mean(row.second_value, row.second_value_deviation))
            values.append(format_mean(row.value_collective, row.value_collective_deviation))
            cells = [f"{row.trained:.0f}", row.method, *values, f"{row.worst_decile:.3f}", human_bytes(row.bytes_total)]
            if quarters:
                cells.append("/".join(f"{quarter:.2f}" for quarter in (row.q1, row.q2, row.q3, row.q4)))
            table.add_row(str(row.collective), *cells)
        table.add_section()
    table.caption = (
        f"mean ± standard deviation over seeds; quality is pooled over all questions; {WORST}: 90 % of a seed's target "
        "users do at least this well; trained: collective users that trained in stage 1; bytes: all clients, with one "
        "download per target user; "
        f"target users: {what.target_users}; rounds: {what.rounds}; cohort: "
        + ", ".join(f"{cohort} (of {count})" for count, cohort in what.cohorts.items())
        + differing(what.other_settings)
    )
    if below:
        table.caption += "; †: below the best answer that needs no model"
    if quarters:
        table.caption += "; by history quarter: means over users, the shortest histories first"
    return table


def _differences_table(found: list[Difference]) -> Table:
    seeds = max(len(row.per_seed) for row in found)
    titles = ("task", "A", "B", "difference", *(["per seed"] if seeds > 1 else []), "95 % CI", "p")
    one_number = all(row.one.collective == row.other.collective for row in found)
    title = "method against method" if one_number else "few collective users against many"
    table = _table(title, *titles, WORST, "target users")
    for row in found:
        sides = (f"{side.method} with {side.collective}" for side in (row.one, row.other))
        noise = " ≈" if row.within_noise else ""
        table.add_row(
            f"{row.task}, {with_arrow(row.metric)}",
            *sides,
            f"{row.difference:+.3f}{noise}",
            *([" ".join(f"{item:+.3f}" for item in row.per_seed)] if seeds > 1 else []),
            interval(row),
            significance(row),
            f"{row.one.worst_decile:.3f} / {row.other.worst_decile:.3f}",
            str(row.users),
        )
    table.caption = f"difference: A minus B, mean over users; {OVER_BOTH}" + (
        ONE_SEED if any(row.p_seeds is None for row in found) else ""
    )
    return table


def _newcomers_table(found: list[NewcomerRow]) -> Table:
    near = f"epochs to {NEAR:.0%}"
    titles = ("task", "method", "users", "download", near, "steps", "s", "quality by history items")
    table = _table("newcomers: cost and history", *titles)
    fewer = False
    for row in found:
        reached = row.near_final
        levels = []
        for items, level in row.by_history.items():
            short = items.isdecimal() and level.items < float(items)
            fewer |= short
            label = f"{items} ({level.items:.1f} on average)" if short else items
            levels.append(f"{label}: {level.mean:.3f} ({level.worst_decile:.3f})")
        tried = ", ".join(map(str, row.epochs_tried))
        per_seed = ["–" if epochs is None else str(epochs) for epochs in row.near_final_per_seed]
        if len(per_seed) > 1:
            tried += f" ({', '.join(per_seed)})"
        table.add_row(
            f"{row.task}, {with_arrow(row.metric)}",
            row.method,
            str(row.collective),
            human_bytes(row.download_bytes),
            f"{reached.epochs} of {tried}" if reached else f"– of {tried}",
            f"{reached.steps:.0f}" if reached else "–",
            f"{reached.seconds:.1f}" if reached and reached.seconds is not None else "–",
            ", ".join(levels),
        )
    table.caption = (
        f"{near}: the fewest epochs tried from which all larger numbers reach {NEAR:.0%} of the final quality, each in "
        "a separate run of stage 2, in brackets for each seed; 0: the collective shift only; steps, s: of that run, s "
        f"with evaluation before and after, on the machine used; in brackets after the quality: the {WORST}; fewer "
        "items mean fewer steps, since the number of epochs is the same"
        + ("; on average: some newcomers have fewer items than the limit" if fewer else "")
    )
    return table


def _compositions_table(found: list[CompositionRow]) -> Table:
    titles = ("task", "method", "users", "per group", "mean", WORST, "variance", "range")
    table = _table("composition of the collective users: groups of one size, the same target users", *titles)
    for row in found:
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


def _transfer_table(found: Transfer) -> Table:
    title = f"transfer of the collective shift of {found.collective} users: trained on (row), used on (column)"
    columns = (f"{task}, {with_arrow(metric)}" for task, metric in found.metrics.items())
    table = _table(title, "method", "trained on", *columns)
    for method, matrices in found.methods.items():
        for source, values in matrices.value.items():
            deviation, worst = matrices.deviation[source], matrices.worst_decile[source]
            cells = [f"{format_mean(values[task], deviation[task])} ({worst[task]:.3f})" for task in found.metrics]
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
        left = name in ("task", "method", "A", "B", "trained on")
        # Folded, so that a narrow terminal cuts nothing off.
        table.add_column(name, justify="left" if left else "right", overflow="fold")
    return table
