"""The figures in `cold_start.json`, computed from the rows of a cold-start experiment."""

import json
from collections.abc import Sequence

import pandas as pd

from simulations.experiments.cold_start.schema import (
    CompositionRow,
    Difference,
    HistoryLevel,
    NearFinal,
    NewcomerRow,
    NumberRow,
    Side,
    TaskSettings,
    Transfer,
    TransferMatrices,
)
from simulations.experiments.comparable import Run, other_settings
from simulations.experiments.comparison.analysis import spread_of_baselines
from simulations.experiments.comparison.schema import Spread
from simulations.experiments.comparison.significance import holm, paired_test
from strategies.metrics.statistics import LOWER_IS_BETTER

NEAR = 0.95
"""Share of the final quality at which a newcomer counts as trained."""


def main_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the main runs: full history, the config's epochs, no transfer, group 0."""
    plain = _plain(rows)
    return plain[plain.history.isna() & plain.bytes_total.notna()]


def _plain(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of group 0 without transfer, with any newcomer history and epochs."""
    return rows[(rows.task == rows.trained_on) & (rows.group == 0)]


def settings(runs: Sequence[Run]) -> list[TaskSettings]:
    """Return the settings behind each task's figures, and those in which the methods differ beyond their definition.

    Args:
        runs: The experiment's main runs.
    """
    settings_by_task = []
    for task in dict.fromkeys(run.config.task for run in runs):
        task_runs = [run for run in runs if run.config.task == task]
        first, metric = task_runs[0], task_runs[0].record.main_metric
        base = {run.record.seed: run.record.metrics_base[metric] for run in task_runs}
        # Smaller numbers of users may have smaller cohorts, and midway evaluation does not change the result.
        most = max(run.config.users.collective for run in task_runs)
        largest = [run for run in task_runs if run.config.users.collective == most]
        differing = {key: values for key, values in other_settings(largest).items() if key != "evaluate.every"}
        settings_by_task.append(
            TaskSettings(
                task=task,
                backbone=first.config.backbone,
                seeds=sorted(base),
                target_users=first.record.users.target,
                rounds=first.config.rounds,
                cohorts={str(run.config.users.collective): run.config.cohort for run in task_runs},
                base=Spread.of([base[seed] for seed in sorted(base)]),
                baselines=spread_of_baselines([run for run in largest if run.method == first.method]),
                other_settings=differing,
            )
        )
    return settings_by_task


def numbers(rows: pd.DataFrame) -> list[NumberRow]:
    """Return the main table in the form of the paper's Table 14: means and standard deviations over seeds."""
    keys = ["task", "metric", "second_metric", "collective", "method"]
    grouped = main_rows(rows).groupby(keys, sort=False, dropna=False)
    columns = ["value", "second_value", "value_collective", "worst_decile", "q1", "q2", "q3", "q4"]
    columns += ["trained", "bytes_total", "newcomer_bytes"]
    table = grouped[columns].mean()
    spread_of = ["value", "second_value", "value_collective"]
    table = table.join(grouped[spread_of].std().rename(columns=lambda name: f"{name}_deviation"))
    table = table.reset_index()
    filled = table.astype(object).where(table.notna(), None)
    return [NumberRow.model_validate(row) for row in filled.to_dict("records")]


def quality_by_number(rows: list[NumberRow]) -> pd.DataFrame:
    """Return the main table as the paper prints it: one row per number of users and method, with columns for each task.

    Args:
        rows: From `numbers`.
    """
    lines: dict[tuple[int, str], dict[str, float | None]] = {}
    for row in rows:
        line = lines.setdefault((row.collective, row.method), {})
        line[f"{row.task} {row.metric}"] = row.value
        line[f"{row.task} {row.metric} deviation"] = row.value_deviation
        if row.second_metric:
            line[f"{row.task} {row.second_metric}"] = row.second_value
            line[f"{row.task} {row.second_metric} deviation"] = row.second_value_deviation
        line[f"{row.task} worst decile"] = row.worst_decile
        line[f"{row.task} bytes"] = row.bytes_total
    return pd.DataFrame([{"collective": count, "method": name, **line} for (count, name), line in lines.items()])


def differences(runs: Sequence[Run], rows: pd.DataFrame) -> list[Difference]:
    """Test few collective users against many.

    The pairs are: the first method with each number of users but the largest against every method with the largest,
    every other method with the smallest number against itself with the largest, and the first method against the
    others with the smallest number.

    Args:
        runs: The experiment's main runs, those of the first method first.
        rows: All rows.
    """
    tested = []
    worst = main_rows(rows).groupby(["task", "collective", "method"]).worst_decile.mean()
    for task in dict.fromkeys(run.config.task for run in runs):
        of_task = [run for run in runs if run.config.task == task]
        first, *others = dict.fromkeys(run.method for run in of_task)
        counts = sorted({run.config.users.collective for run in of_task})
        few, many = counts[0], counts[-1]
        pairs = [((first, count), (method, many)) for count in counts[:-1] or counts for method in (first, *others)]
        pairs += [((method, few), (method, many)) for method in others]
        pairs += [((first, few), (method, few)) for method in others]
        for one, other in dict.fromkeys(pairs):
            if one != other:
                sides = [
                    [run for run in of_task if (run.method, run.config.users.collective) == side]
                    for side in (one, other)
                ]
                labels = [
                    Side(method=name, collective=count, worst_decile=float(worst[task, count, name]))
                    for name, count in (one, other)
                ]
                test = paired_test(sides[0], sides[1]).model_dump()
                metric = of_task[0].record.main_metric
                tested.append(Difference(task=task, metric=metric, one=labels[0], other=labels[1], **test))
    return [Difference.model_validate(test.model_dump()) for test in holm(tested)]


def newcomers(rows: pd.DataFrame) -> list[NewcomerRow]:
    """Return what a newcomer downloads, and how long it trains until it is near its final quality.

    That is the smallest number of epochs tried from which all larger numbers are near it too, for the mean over seeds
    and for each seed. 0 epochs is the collective shift only. Each number of epochs is a separate run of stage 2, with
    its own learning-rate schedule.
    """
    described = []
    plain = _plain(rows)
    keys = ["task", "method", "collective"]
    for (task, method, count), of_method in plain[plain.history.isna()].groupby(keys, sort=False):
        final = of_method[of_method.bytes_total.notna()]
        untrained = final.newcomer_turn_seconds.mean() if final.newcomer_upload_bytes.any() else None
        cost: dict[int, tuple[float, float | None]] = {0: (0.0, untrained)}
        if final.newcomer_steps.any():
            for epochs, part in of_method.groupby("epochs"):
                cost[int(str(epochs))] = (part.newcomer_steps.mean(), part.newcomer_turn_seconds.mean())
        near = _near_final(of_method)
        described.append(
            NewcomerRow(
                task=str(task),
                metric=final.metric.iloc[0],
                method=str(method),
                collective=int(str(count)),
                download_bytes=final.newcomer_bytes.mean(),
                upload_bytes=final.newcomer_upload_bytes.mean(),
                final=Spread.of(final.value.tolist()),
                epochs_tried=sorted(cost),
                near_final=None if near is None else NearFinal(epochs=near, steps=cost[near][0], seconds=cost[near][1]),
                near_final_per_seed=[_near_final(of_method[of_method.seed == seed]) for seed in sorted(final.seed)],
                by_history=by_history(rows, task, method, count),
            )
        )
    return described


def _near_final(of_method: pd.DataFrame) -> int | None:
    """The fewest epochs from which newcomers of one method and number of users stay near their final quality."""
    final = of_method[of_method.bytes_total.notna()]
    value = final.value.mean()
    reached = {0: final.value_collective.mean()}
    if final.newcomer_steps.any():
        reached |= {int(str(epochs)): part.value.mean() for epochs, part in of_method.groupby("epochs")}
    if final.metric.iloc[0] in LOWER_IS_BETTER:
        far = [epochs for epochs, quality in reached.items() if quality > value / NEAR]
    else:
        # A final quality of 0 is never near.
        far = [epochs for epochs, quality in reached.items() if quality < value * NEAR or not value]
    return min((epochs for epochs in reached if epochs > max(far, default=-1)), default=None)


def by_history(rows: pd.DataFrame, task: object, method: object, count: object) -> dict[str, HistoryLevel]:
    """Return quality by the limit on newcomers' history items: `0`, the limits tried, `all`.

    Without items a newcomer has what it is sent; if that depends on its items (`Method.introduces`), `0` is a run.
    `items` is the mean number of items they have; some have fewer than the limit. `steps` is their mean number of
    training steps, for the same number of epochs.
    """
    plain = _plain(rows)
    of_method = plain[(plain.task == task) & (plain.method == method) & (plain.collective == count)]
    final = of_method[of_method.history.isna() & of_method.bytes_total.notna()]
    levels = {}
    if not final.newcomer_upload_bytes.any():
        levels["0"] = _level(final.value_collective, final.worst_decile_collective.mean(), 0.0, 0.0)
    limited = of_method[of_method.history.notna()].groupby("history")
    parts = {f"{items:g}": part for items, part in limited} | {"all": final}
    for label, part in parts.items():
        items, steps = part.newcomer_items.mean(), part.newcomer_steps.mean()
        levels[label] = _level(part.value, part.worst_decile.mean(), items, steps)
    return levels


def _level(values: "pd.Series[float]", worst_decile: float, items: float, steps: float) -> HistoryLevel:
    quality = Spread.of(values.tolist()).model_dump()
    return HistoryLevel(**quality, worst_decile=worst_decile, items=items, steps=steps)


def history_levels(rows: pd.DataFrame, task: object) -> list[str]:
    """Return the keys of `by_history` over all methods of a task, from `0` to `all`."""
    of_task = _plain(rows)
    tried = of_task[(of_task.task == task) & of_task.history.notna()].history
    return list(dict.fromkeys(["0", *(f"{items:g}" for items in sorted(tried.unique())), "all"]))


def compositions(rows: pd.DataFrame) -> list[CompositionRow]:
    """Return variance and range over groups of one size (the paper's Table 15), within each seed, then averaged.

    There is one entry per metric. Groups and target users of different seeds are different users, so seeds do not
    repeat a group. A method without a stage 1 has no groups.
    """
    described = []
    main = rows[(rows.task == rows.trained_on) & rows.history.isna() & rows.bytes_total.notna()]
    for (task, method, count), part in main.groupby(["task", "method", "collective"], sort=False):
        if not part.group.any():
            continue
        for metric, column in (("metric", "value"), ("second_metric", "second_value")):
            if part[metric].isna().any():
                continue
            by_seed = part.groupby("seed")[column]
            described.append(
                CompositionRow(
                    task=str(task),
                    metric=part[metric].iloc[0],
                    method=str(method),
                    collective=int(str(count)),
                    groups=part.groupby("group")[column].mean().tolist(),
                    mean=part[column].mean(),
                    worst_decile=part.worst_decile.mean() if column == "value" else None,
                    variance=by_seed.var(ddof=1).mean(),
                    range=(by_seed.max() - by_seed.min()).mean(),
                )
            )
    return described


def transfers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of runs whose shift was trained on another task."""
    return rows[rows.task != rows.trained_on]


def transfer_matrix(rows: pd.DataFrame, method: str, column: str = "value", over_seeds: str = "mean") -> pd.DataFrame:
    """Return `column` by the task the shift was trained on (rows) and used on (columns): mean over seeds, or `std`.

    The shifts are those of the largest number of collective users.
    """
    most = rows.collective.max()
    whole = rows.history.isna() & (rows.group == 0) & (rows.method == method) & (rows.collective == most)
    used = rows[whole & (rows.bytes_total.notna() | (rows.task != rows.trained_on))]
    matrix: pd.DataFrame = used.pivot_table(column, "trained_on", "task", over_seeds, sort=False, dropna=False)
    return matrix


def transfer(rows: pd.DataFrame) -> Transfer | None:
    """Return every method's transfer matrices (the paper's Table 16); None if no shift was used on another task."""
    moved = transfers(rows)
    if not len(moved):
        return None
    figures = (("value", "mean"), ("value", "std"), ("second_value", "mean"), ("worst_decile", "mean"))
    names = ("value", "deviation", "second_value", "worst_decile")
    methods = {}
    for method in dict.fromkeys(moved.method):
        matrices = [json.loads(transfer_matrix(rows, method, *figure).to_json(orient="index")) for figure in figures]
        methods[method] = TransferMatrices(**dict(zip(names, matrices, strict=True)))
    metrics = dict(zip(rows.task, rows.metric, strict=True))
    return Transfer(collective=int(moved.collective.max()), metrics=metrics, methods=methods)


def brightness(matrix: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return each value's share of the best in its column; for errors, the best's share of the value.

    Columns are different tasks, whose metrics may differ.
    """
    metrics = dict(zip(rows.task, rows.metric, strict=True))
    shades = matrix / matrix.max()
    for task in matrix.columns:
        if metrics[task] in LOWER_IS_BETTER:
            shades[task] = matrix[task].min() / matrix[task]
    return shades.fillna(1).where(matrix.notna())  # 0 / 0: as good as the best
