"""Analysis of compared runs: quality, bytes, cost curves, and whether differences exceed noise."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from simulations.display.tables import BOUNDS
from simulations.experiments.comparable import Run, other_settings
from simulations.experiments.comparison.controls import controls as controls_of
from simulations.experiments.comparison.controls import correct, trains_nothing
from simulations.experiments.comparison.curves import curve
from simulations.experiments.comparison.schema import (
    BytesToReach,
    ComparedMethod,
    ComparedRunEntry,
    Comparison,
    LearningRates,
    MethodBytes,
    MethodCodecs,
    MethodParameters,
    QualityAtBytes,
    Seconds,
    Spread,
    UserCounts,
)
from simulations.experiments.comparison.significance import holm, paired_test
from strategies.metrics.statistics import LOWER_IS_BETTER
from strategies.wire import Phase

SHARES = (0.90, 0.95, 0.99)
"""Shares of the best quality for which the bytes to reach them are reported."""
_BITS = 1e-12
"""Relative difference that the last bits of two means of the same values may have."""
_IDS = 1e-3
"""Relative difference in message bytes that Flower's random ids may cause."""


def compare_runs(
    runs: Sequence[Run], reference: str, folder: Path = Path(), controls: Sequence[Run] = ()
) -> tuple[Comparison, pd.DataFrame]:
    """Analyse a comparison.

    Args:
        runs: Comparable runs; every method has the same seeds.
        reference: The method that all others are tested against.
        folder: The comparison's folder; the paths of its runs are relative to it.
        controls: Runs of the same methods with exchanged histories.

    Returns:
        The content of `compare.json`, with per-seed values in increasing order of seeds, and all curves in one frame.
    """
    methods = list(dict.fromkeys(run.method for run in runs))
    runs = sorted(runs, key=lambda run: (methods.index(run.method), run.record.seed))
    curves = pd.concat([curve(run) for run in runs], ignore_index=True)
    first = runs[0]
    metric = first.record.main_metric
    by_method = {method: [run for run in runs if run.method == method] for method in methods}
    means = {
        method: float(np.mean([run.record.metrics[metric] for run in of_method]))
        for method, of_method in by_method.items()
    }
    best = (min if metric in LOWER_IS_BETTER else max)(means, key=lambda method: means[method])
    budgets = _budgets(curves, reference)
    comparison = Comparison(
        name=folder.name,
        task=first.config.task,
        backbone=first.config.backbone,
        metric=metric,
        lower_is_better=metric in LOWER_IS_BETTER,
        seeds=[run.record.seed for run in by_method[reference]],
        users=UserCounts(collective=first.record.users.collective, target=first.record.users.target),
        reference=reference,
        best=best,
        equal_bytes=[float(budget.mean()) for budget in budgets],
        other_settings=other_settings(runs),
        base=Spread.of([run.record.metrics_base[metric] for run in by_method[reference]]),
        baselines=spread_of_baselines(by_method[reference]),
        bounds=_bounds(by_method[reference]),
        methods=_corrected(
            [
                _method(of_method, by_method[reference], by_method[best], curves, budgets)
                for of_method in by_method.values()
            ]
        ),
        runs=[_entry(run, folder) for run in runs],
    )
    for row in comparison.methods:
        values = [run.record.metrics[metric] for run in controls if run.method == row.method]
        row.exchanged = Spread.of(values) if values else None
    return comparison, curves


def spread_of_baselines(runs: Sequence[Run]) -> dict[str, Spread]:
    """Return the scores of trivial answers over seeds; none if a record lacks them."""
    metric = runs[0].record.main_metric
    names = [name for name in runs[0].record.baselines if all(name in run.record.baselines for run in runs)]
    return {name: Spread.of([run.record.baselines[name][metric] for run in runs]) for name in names}


def _bounds(runs: Sequence[Run]) -> dict[str, Spread]:
    oracles = [run.record.oracle for run in runs]
    return {
        name: Spread.of([getattr(oracle, name) for oracle in oracles])
        for name in BOUNDS
        if all(oracle and getattr(oracle, name) is not None for oracle in oracles)
    }


def _agreement(runs: Sequence[Run]) -> dict[str, dict[str, Spread]]:
    metric = runs[0].record.main_metric
    parts = [run.record.agreement for run in runs]
    if not all(part and all(of.questions for of in part.values()) for part in parts):
        return {}
    return {
        name: {point: Spread.of([part[name].metrics[point][metric] for part in parts]) for point in of.metrics}
        for name, of in parts[0].items()
    }


def _method(
    runs: Sequence[Run],
    reference: Sequence[Run],
    best: Sequence[Run],
    curves: pd.DataFrame,
    budgets: Sequence["pd.Series[float]"],
) -> ComparedMethod:
    """Analyse one method against the reference, and against the best for the bytes to reach its quality."""
    metric, method, params = runs[0].record.main_metric, runs[0].method, runs[0].record.params
    own_curves = curves[curves.method == method]
    line = _mean_curve(own_curves)
    return ComparedMethod(
        method=method,
        quality=Spread.of([run.record.metrics[metric] for run in runs]),
        quality_collective=Spread.of([run.record.metrics_collective[metric] for run in runs]),
        bytes=MethodBytes(
            per_client_round_up=float(np.mean([run.record.bytes.per_client_round_up for run in runs])),
            per_client_round_down=float(np.mean([run.record.bytes.per_client_round_down for run in runs])),
            in_all=float(line.bytes_total.iloc[-1]),
            codecs=_codecs(runs),
        ),
        bytes_to_reach={f"{share:.0%}": _bytes_to_reach(own_curves, best, share) for share in SHARES},
        bytes_to_match=_bytes_to_reach(own_curves, reference, 1.0),
        quality_at_equal_bytes=[_quality_at(runs, reference, curves, budget) for budget in budgets],
        learning_rates=LearningRates(
            local=runs[0].config.local.lr if params.shared and not trains_nothing(runs[0], Phase.TRAIN) else None,
            personal=runs[0].config.personal.lr if params.private and not trains_nothing(runs[0]) else None,
        ),
        params=MethodParameters(shared=params.shared, private=params.private),
        seconds=_seconds(runs),
        against=None if method == reference[0].method else paired_test(runs, reference),
        agreement=_agreement(runs),
        epsilon=max((spent.epsilon for run in runs if (spent := run.record.privacy) and spent.epsilon), default=None),
        controls=controls_of(runs),
    )


def _codecs(runs: Sequence[Run]) -> MethodCodecs | None:
    counted = [run.record.bytes for run in runs]
    if {part.codec_up for part in counted} | {part.codec_down for part in counted} == {"raw"}:
        return None
    wire = runs[0].config.wire
    return MethodCodecs(
        up=_with_share(counted[0].codec_up, wire.up),
        down=_with_share(counted[0].codec_down, wire.down),
        ratio_up=float(np.mean([part.ratio_up for part in counted])),
        ratio_down=float(np.mean([part.ratio_down for part in counted])),
    )


def _with_share(recorded: str, asked: str) -> str:
    """Return a codec's name with the share of numbers that it writes, which is not in the ledger."""
    return asked if asked.split(" ")[0] == recorded else recorded


def _corrected(methods: list[ComparedMethod]) -> list[ComparedMethod]:
    """Correct p-values for the number of tests: at the end, at each number of bytes, and of the controls."""
    methods = [method.model_copy(deep=True) for method in methods]
    columns: list[list[ComparedMethod | QualityAtBytes]] = [list(methods)]
    budgets = zip(*(method.quality_at_equal_bytes for method in methods), strict=True)
    columns += [[quality for quality in qualities if quality] for qualities in budgets]
    for column in columns:
        tested = [cell for cell in column if cell.against]
        for cell, against in zip(tested, holm([cell.against for cell in tested if cell.against]), strict=True):
            cell.against = against
    correct([control for method in methods for control in method.controls.values()])
    return methods


def _entry(run: Run, folder: Path) -> ComparedRunEntry:
    git = run.record.git
    return ComparedRunEntry.model_validate(
        {
            "method": run.method,
            "seed": run.record.seed,
            "folder": os.path.relpath(run.folder, folder),
            "commit": git.get("commit"),
            "dirty": git.get("dirty"),
        }
    )


def _mean_curve(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds for each round; seeds of one method are evaluated after the same rounds."""
    return frame.groupby("round", as_index=False)[["bytes_total", "value"]].mean()


def _budgets(curves: pd.DataFrame, reference: str) -> list["pd.Series[float]"]:
    """Return, by seed, the reference's total bytes and the fewest bytes within which every method was evaluated."""
    whole = curves[curves.method == reference].groupby("seed").bytes_total.max()
    least = curves.groupby(["method", "seed"]).bytes_total.min().groupby("seed").max()
    different = not np.allclose(whole, least, rtol=_IDS)
    return sorted([whole, least], key=lambda budget: float(budget.mean())) if different else [whole]


def _bytes_to_reach(own_curves: pd.DataFrame, best: Sequence[Run], share: float) -> BytesToReach:
    metric = best[0].record.main_metric
    lower = metric in LOWER_IS_BETTER
    final = {run.record.seed: run.record.metrics[metric] for run in best}
    return BytesToReach(
        mean_curve=_bytes_to(_mean_curve(own_curves), float(np.mean(list(final.values()))), share, lower),
        per_seed=[_bytes_to(own_curves[own_curves.seed == seed], value, share, lower) for seed, value in final.items()],
    )


def _bytes_to(line: pd.DataFrame, best: float, share: float, lower: bool) -> float | None:
    """The bytes spent at the first evaluated round with that share of the best quality, or None."""
    if not best and not lower:
        return None  # the best quality is 0, which has no shares
    # Means of the same values may differ in the last bit.
    wanted = best / share * (1 + _BITS) if lower else best * share * (1 - _BITS)
    reached = line[line.value <= wanted] if lower else line[line.value >= wanted]
    return float(reached.bytes_total.iloc[0]) if len(reached) else None


def _quality_at(
    of_method: Sequence[Run], reference: Sequence[Run], curves: pd.DataFrame, budget: "pd.Series[float]"
) -> QualityAtBytes | None:
    """Each seed's quality at the last evaluated round within its budget; None if a seed has no such round.

    `against` is the test against the reference within the same bytes; None for the reference itself.
    """
    ours, theirs = (_within(curves[curves.method == runs[0].method], budget) for runs in (of_method, reference))
    if ours is None or theirs is None:
        return None
    rounds = [{seed: number for seed, (number, _) in last.items()} for last in (ours, theirs)]
    against = paired_test(of_method, reference, *rounds) if of_method[0].method != reference[0].method else None
    values = Spread.of([value for _, value in ours.values()])
    return QualityAtBytes(**values.model_dump(), against=against)


def _within(line: pd.DataFrame, budget: "pd.Series[float]") -> dict[int, tuple[int, float]] | None:
    """Each seed's last evaluated round within its budget, with its quality; None if a seed has no such round."""
    last = {}
    columns = (line[key].tolist() for key in ("seed", "round", "bytes_total", "value"))
    for seed, number, spent, value in sorted(zip(*columns, strict=True)):
        if spent <= budget[seed] * (1 + _IDS):
            last[seed] = (number, value)
    return last if len(last) == line.seed.nunique() else None


def _seconds(runs: Sequence[Run]) -> Seconds:
    """Mean seconds of a client's local computation in the opening, in a round, and in stage 2."""
    tables = [run.files.clients().to_pandas() for run in runs]
    clients = pd.concat(tables, ignore_index=True)
    training, opening = clients.phase == "train", clients["round"] == 0
    parts = {"opening": training & opening, "train": training & ~opening, "personalize": clients.phase == "personalize"}
    means = {part: float(clients[chosen].wall_s.mean()) for part, chosen in parts.items()}
    return Seconds(**{part: None if math.isnan(mean) else mean for part, mean in means.items()})
