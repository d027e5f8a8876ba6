"""`fedperfit compare`: several methods on the same users, seeds and evaluation; runs what is missing."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import InputError, RunFailed
from configs.load import load_config, read_resolved
from configs.schema import RunConfig
from fl_clients.backbone import read_shape
from fl_server.records import read_run
from simulations.comparison import Run, check_comparable, compare_runs
from simulations.plots import draw_curves
from simulations.simulate import build_method, resolve, simulate

_LOOKS = 4
"""How often the target users are evaluated on the way, where the config leaves that open."""


@dataclass(frozen=True)
class Planned:
    """One run of a comparison."""

    method: str
    name: str
    config: RunConfig
    import_path: list[str]
    """Folders that the method may be imported from, as in `simulate`."""


def plan(methods: Sequence[str], toml: Path | None, overrides: Sequence[str], seeds: Sequence[int]) -> list[Planned]:
    """Make every config of a comparison, and check it, before any work.

    The target users are evaluated personalised on the way, `evaluate.every` the config's, else about four times.

    Raises:
        InputError: A method, key or seed is wrong, or twice there.
    """
    for kind, given in (("method", methods), ("seed", seeds)):
        if twice := next((value for value in given if list(given).count(value) > 1), None):
            raise InputError(f"{kind} {twice} stands there twice")
        if not given:
            raise InputError(f"expected at least one {kind}")
    import_path = [str(toml.resolve().parent)] if toml else []
    planned = []
    for method in methods:
        for seed in seeds:
            words = ["evaluate.stage=personalised", *overrides, f"method={method}", f"seed={seed}"]
            config = load_config(toml, words)
            if not config.evaluate.every:
                every = max(1, config.rounds // _LOOKS)
                config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"every": every})})
            planned.append(Planned(method, f"{method.rpartition(':')[2]}-seed{seed}", resolve(config), import_path))
    shape = read_shape(planned[0].config.backbone)
    for each in planned:
        try:
            build_method(each.config, shape, import_path)
        except InputError as error:
            raise InputError(f"{each.method}: {error}") from None
    return planned


def complete(
    planned: Sequence[Planned],
    folder: Path,
    overwrite: bool,
    say: Callable[[str], None],
    watch: Callable[[Path], None] = lambda _folder: None,
) -> list[Run]:
    """Run what is missing.

    Args:
        planned: What shall be there.
        folder: Where new run records go. Completed ones of the same config in it or beside it are used.
        overwrite: Replace completed records of another config in `folder`.
        say: Told what is done.
        watch: As in `simulate`.

    Raises:
        InputError: `folder` holds runs of another config.
        RunFailed: A run failed; those completed before are kept and used the next time.
    """
    found = {each.name: _find(each, folder, overwrite) for each in planned}
    runs = []
    for number, each in enumerate(planned, 1):
        there = found[each.name]
        say(f"{number} of {len(planned)}: {each.name}" + (f", reused from {there}" if there else ""))
        if there is None:
            there = folder / each.name
            try:
                simulate(each.config, each.name, folder, overwrite=True, import_path=each.import_path, watch=watch)
            except RunFailed as error:
                raise RunFailed(f"{each.name}: {error}") from None
        runs.append(Run.read(there, each.method))
    return runs


def write_comparison(runs: Sequence[Run], reference: str, folder: Path) -> dict[str, Any]:
    """Work a comparison of completed runs out and write `compare.json`, `curves.parquet` and the plots.

    Raises:
        InputError: The runs cannot be compared.
    """
    check_comparable(runs)
    report, curves = compare_runs(runs, reference)
    report = {"name": folder.name, **report}
    for entry in report["runs"]:
        entry["folder"] = os.path.relpath(entry["folder"], folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compare.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    curves.to_parquet(folder / "curves.parquet", index=False)
    draw_curves(report, curves, folder)
    return report


def _find(planned: Planned, folder: Path, overwrite: bool) -> Path | None:
    """Return a completed record of the same config: in the comparison's folder, else anywhere beside it."""
    own = folder / planned.name
    places = [own, *sorted(folder.parent.glob("*/")), *sorted(folder.parent.glob("*/*/"))]
    for place in places:
        if not (place / "run.json").is_file() or not (place / "config.toml").is_file():
            continue
        try:
            completed = read_run(place).status == "completed"
            other = first_difference(read_resolved(place / "config.toml"), planned.config)
        except InputError:
            continue  # of another version
        if completed and other is None:
            return place
        if completed and place == own and not overwrite:
            raise InputError(f"{own} is of another config ({other}); choose another --name, or --overwrite")
    return None


def first_difference(ours: RunConfig, theirs: RunConfig) -> str | None:
    """Name the first key in which two configs differ, of those that change a number."""
    flat = [_flatten(config.model_dump(mode="json")) for config in (ours, theirs)]
    for key in sorted(flat[0].keys() | flat[1].keys()):
        if key in ("engine", "activations_mb", "partitions.cpus") or flat[0].get(key) == flat[1].get(key):
            continue
        return f"{key} is {flat[0].get(key)!r} there, {flat[1].get(key)!r} here"
    return None


def _flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
