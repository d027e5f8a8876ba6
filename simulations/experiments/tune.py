"""`fedperfit tune`: a method's learning rates, by a small search that is the same for every method.

With a size, the method's shapes are compared first (`shapes`), and the rates are those of the best.

Stage 1's rate is searched first, with a fixed rate for stage 2; then stage 2's rate, with the best rate of stage 1. The
rates in the method's TOML are not used. While the best rate is the lowest or highest tried, the next one is tried too.
Rates within one standard error of the best are run with more seeds, which then decide, since a few dozen questions do
not separate neighbouring rates. The criterion is that of comparisons, the main metric after personalisation, on users
held out of training. The config's target users are not used.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from configs.errors import InputError, RunFailed
from configs.load import import_folders
from configs.schema import RunConfig
from fl_clients.backbone.load import read_shape
from simulations.experiments.comparable import Run
from simulations.experiments.compare import complete
from simulations.experiments.comparison.curves import per_user
from simulations.experiments.plan import Planned, fewer_users, plan
from simulations.experiments.reuse import started_from
from simulations.experiments.shapes import FittedShape, fitted_shapes
from simulations.run.folders import check_experiment, claim_folder
from simulations.run.preflight import build_method
from strategies.method import BackboneShape, Method
from strategies.metrics.statistics import LOWER_IS_BETTER

T = TypeVar("T")
GRID = (1e-3, 3e-3, 1e-2, 3e-2)
"""The rates tried first."""
RATES = (3e-5, 1e-4, 3e-4, *GRID, 1e-1, 3e-1)
"""All rates that may be tried."""
_PERSONAL = 3e-3
"""Stage 2's rate while stage 1's is searched."""
_MORE_SEEDS = 2
"""Number of additional seeds for rates close to the best."""


@dataclass(frozen=True)
class Tuned:
    """The result of a search."""

    rates: dict[str, float]
    """The best rate of each stage that has one, by config key."""
    at_the_edge: list[str]
    """Config keys whose best rate is an end of `RATES`; a better one may be outside."""
    table: pd.DataFrame
    """One row per setting tried: `local_lr, personal_lr, seeds, metric, value, standard_error, users`. `seeds` is the
    number of seeds it ran with; a setting close to the best has one row for the first seeds and one for all."""
    file: Path
    """`tune.csv`, which has the table."""
    shape: tuple[str, ...] = ()
    """The best shape's overrides, if a size was given."""
    shapes: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row per shape tried: `shape, shared, seeds, metric, value, standard_error, users`."""


def tune(
    method: str,
    toml: Path | str | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    held_out: int = 8,
    size: int | None = None,
    name: str | None = None,
    results: Path | str = "results",
    log: Callable[[str], None] = print,
) -> Tuned:
    """Search a method's shape, if a size is given, and its learning rates; completed runs are reused.

    Args:
        method: Name of a file in `configs/methods/`, a TOML file, or `module:Class`.
        toml: The experiment file; its collective users are used.
        overrides: `key=value`.
        seeds: Every setting runs with each of them; settings close to the best also with the next two integers.
        held_out: Number of collective users that are personalised and evaluated instead.
        size: The most numbers that may travel, one way; the method's shapes are then tried at that size, and the rates
            are searched for the best one. None: the method's own shape.
        name: The search's folder under `results`, for runs and `tune.csv`; None: `tune-` and the method's name.
        results: The folder of results.
        log: Called with progress messages.

    Raises:
        InputError: A setting is invalid, there are too few users, or no shape fits the size.
        RunFailed: A run failed for another reason than a non-finite loss.
    """
    label = Path(method).stem if method.endswith(".toml") else method.rpartition(":")[2]
    folder = claim_folder(results, name or f"tune-{label}")
    check_experiment(folder, "tune.csv")
    import_path = import_folders(toml, [*overrides, f"method={method}"])
    fitted = [] if size is None else fitted_shapes(method, toml, overrides, size, import_path)
    # The method's own shape may not fit the backbone.
    planned = plan([method], toml, [*overrides, *(fitted[0].overrides if fitted else ())], seeds)
    _check(planned[0].config, overrides, held_out)
    shape = read_shape(planned[0].config.backbone)
    built = build_method(planned[0].config, shape, planned[0].import_path)
    keys = _keys_of_rates(built, shape)
    held_out_users = [*overrides, *_hold_out(planned[0].config, held_out)]
    shape_words: tuple[str, ...] = ()
    shapes = pd.DataFrame()
    if fitted:
        shape_words, shapes = _best_shape(fitted, method, toml, held_out_users, seeds, folder / "shapes", log)
        held_out_users += shape_words
        folder = folder / "rates"
    search = _Search(method, toml, held_out_users, seeds, folder, log, built.first_round == 1)
    search.rates = dict.fromkeys(keys[1:], _PERSONAL)
    for key in keys:
        search.rates[key] = _best(partial(search.quality, key))
    columns = ["local_lr", "personal_lr", "seeds", "metric", "value", "standard_error", "users"]
    table = pd.DataFrame([(*setting, *measured) for setting, measured in search.tried.items()], columns=columns)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "tune.csv", index=False, float_format="%.6g")
    edges = [key for key, rate in search.rates.items() if rate in (RATES[0], RATES[-1])]
    return Tuned(search.rates, edges, table, folder / "tune.csv", shape_words, shapes)


def _keys_of_rates(method: Method, backbone: BackboneShape) -> list[str]:
    keys = ["local.lr"] if method.first_round is not None else []
    keys += ["personal.lr"] if method.private_parameters(backbone) and method.trains_newcomers else []
    if not keys:
        raise InputError(f"{method.name} trains nothing, so there is no rate to search")
    return keys


def _best_shape(
    fitted: Sequence[FittedShape],
    method: str,
    toml: Path | str | None,
    overrides: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    log: Callable[[str], None],
) -> tuple[tuple[str, ...], pd.DataFrame]:
    """Run every shape with the method's own rates; return the best one's overrides, and what each scored."""
    rows = []

    def quality(shape: FittedShape, more: int) -> tuple[float, float]:
        chosen = _more_seeds(seeds, more)
        runs = plan([method], toml, [*overrides, *shape.overrides], chosen)
        named = [replace(run, name=f"{shape.name}-seed{run.config.seed}") for run in runs]
        metric, value, error, count = _score(complete(named, folder, False, log))
        rows.append((shape.name, shape.shared, len(chosen), metric, value, error, count))
        return value * (-1 if metric in LOWER_IS_BETTER else 1), error

    qualities = {shape: quality(shape, 0) for shape in fitted}
    close = _close_to_best(qualities)
    if len(close) > 1:
        qualities = {shape: quality(shape, _MORE_SEEDS) for shape in close}
    best = max(qualities, key=lambda shape: qualities[shape][0])
    columns = ["shape", "shared", "seeds", "metric", "value", "standard_error", "users"]
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(folder / "shapes.csv", index=False, float_format="%.6g")
    return best.overrides, table


def _more_seeds(seeds: Sequence[int], more: int) -> list[int]:
    return [*seeds, *(max(seeds) + number for number in range(1, more + 1))]


def _close_to_best(qualities: Mapping[T, tuple[float, float]]) -> list[T]:
    """Return what is within one standard error of the best, the best included."""
    value, error = max(qualities.values(), key=lambda pair: pair[0])
    return [key for key, (other, _) in qualities.items() if other == value or value - other <= error]


def _check(config: RunConfig, overrides: Sequence[str], held_out: int) -> None:
    for override in overrides:
        if override.partition("=")[0].strip() in ("local.lr", "personal.lr"):
            raise InputError(f"{override}: tune searches this rate")
    if config.users.select == "listed":
        raise InputError("users.select='listed': tune draws the held-out users itself; use random, paper or apart")
    most = config.users.collective - 1
    if not 0 < held_out <= most:
        raise InputError(f"expected 1 to {most} of the collective users", field="held_out", value=held_out)


def _hold_out(config: RunConfig, held_out: int) -> list[str]:
    """Return overrides that evaluate held-out collective users in place of the target users."""
    users, left = config.users, config.users.collective - held_out
    overrides = [f"users.reserved={users.reserved + users.target}", f"users.target={held_out}"]
    # Evaluated only after the last round, by the personalisation.
    return [*overrides, *fewer_users(config, left), f"evaluate.every={config.rounds}"]


@dataclass
class _Search:
    """Runs settings and remembers what they scored."""

    method: str
    toml: Path | str | None
    overrides: Sequence[str]
    seeds: Sequence[int]
    folder: Path
    log: Callable[[str], None]
    stage_1_is_shared: bool
    """Stage 2's rate does not change stage 1: only an opening trains with it."""
    rates: dict[str, float] = field(default_factory=dict)
    """The rates that are fixed so far, by config key."""
    tried: dict[tuple[float, float, int], tuple[str, float, float, int]] = field(default_factory=dict)
    """Metric, value, standard error and users, by the two rates and the number of seeds."""

    def quality(self, key: str, rate: float, more: int) -> tuple[float, float]:
        """Return the quality of a rate and its standard error, with `more` additional seeds."""
        seeds = _more_seeds(self.seeds, more)
        runs = self._planned(key, rate, seeds)
        try:
            if key == "personal.lr" and self.stage_1_is_shared and rate != _PERSONAL:
                first = [replace(run, starts_others=True) for run in self._planned(key, _PERSONAL, seeds)]
                places = [run.folder for run in complete(first, self.folder, False, self.log)]
                runs = [started_from(run, place) for run, place in zip(runs, places, strict=True)]
            done = complete(runs, self.folder, False, self.log)
            _check_trains(key, done[0])
            metric, value, error, count = _score(done)
        except RunFailed as failure:
            if not _diverged(self.folder, runs):
                raise
            self.log(f"{failure}: the rate is too high")
            metric, value, error, count = "", math.nan, math.nan, 0
        self.tried[runs[0].config.local.lr, runs[0].config.personal.lr, len(seeds)] = metric, value, error, count
        return -math.inf if math.isnan(value) else value * (-1 if metric in LOWER_IS_BETTER else 1), error

    def _planned(self, key: str, rate: float, seeds: Sequence[int]) -> list[Planned]:
        searched = [f"{name}={value!r}" for name, value in {**self.rates, key: rate}.items()]
        return [_named(run) for run in plan([self.method], self.toml, [*self.overrides, *searched], seeds)]


def _check_trains(key: str, run: Run) -> None:
    """Refuse to search a rate of which no client takes a step."""
    phase = "train" if key == "local.lr" else "personalize"
    rows = run.files.clients(["phase", "steps"]).to_pylist()
    if not any(row["steps"] for row in rows if row["phase"] == phase):
        raise InputError(f"{run.method} takes no step with {key}, so there is no rate to search")


def _best(quality: Callable[[float, int], tuple[float, float]]) -> float:
    """Return the rate of highest quality.

    `quality(rate, more)` returns a rate's quality and standard error with `more` additional seeds. The search covers
    the grid, and rates next to it while the best is at an end. If other rates are within one standard error of the
    best, these rates run with more seeds, which decide.
    """
    qualities = {rate: quality(rate, 0) for rate in GRID}
    tried = set(GRID)
    best = _climb(qualities, tried, lambda rate: quality(rate, 0))
    close = _close_to_best(qualities)
    if len(close) == 1:
        return best
    again = {rate: quality(rate, _MORE_SEEDS) for rate in close}
    return _climb(again, tried, lambda rate: quality(rate, _MORE_SEEDS))


def _climb(
    qualities: dict[float, tuple[float, float]], tried: set[float], quality: Callable[[float], tuple[float, float]]
) -> float:
    """Return the best rate in `qualities`, after trying its neighbours too."""
    while True:
        best = max(qualities, key=lambda rate: qualities[rate][0])
        place = RATES.index(best)
        beyond = [rate for rate in RATES[max(0, place - 1) : place + 2] if rate not in tried]
        if not beyond:
            return best
        tried.add(beyond[0])
        qualities[beyond[0]] = quality(beyond[0])


def _named(planned: Planned) -> Planned:
    config: RunConfig = planned.config
    name = f"{config.local.lr:g}-{config.personal.lr:g}-seed{config.seed}"
    return replace(planned, name=name.replace("+", ""))


def _diverged(folder: Path, planned: Sequence[Planned]) -> bool:
    """Tell whether clients failed only because their loss was not finite."""
    tracebacks = []
    for path in (folder / run.name / "errors.jsonl" for run in planned):
        if path.is_file():
            lines = path.read_text(encoding="utf-8").split("\n")
            tracebacks += [json.loads(line)["traceback"] for line in lines if line]
    return bool(tracebacks) and all("FloatingPointError" in text for text in tracebacks)


def _score(runs: Sequence[Run]) -> tuple[str, float, float, int]:
    """Return the metric, its mean over seeds, the standard error over users, and the number of users."""
    metric = runs[0].record.main_metric
    users = [value for run in runs for value in per_user(run).values()]
    error = float(np.std(users, ddof=1) / math.sqrt(len(users))) if len(users) > 1 else math.nan
    return metric, float(np.mean([run.record.metrics[metric] for run in runs])), error, len(users)
