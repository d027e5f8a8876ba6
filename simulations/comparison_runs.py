"""`fedperfit compare`: several methods on the same users, seeds and evaluation; runs what is missing."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from configs.errors import InputError, RunFailed
from configs.load import import_folders, load_config, read_resolved
from configs.schema import RunConfig
from fl_clients.backbone import read_shape
from fl_clients.lamp.store import build_table
from fl_server.checkpoint import load_checkpoint
from fl_server.records import read_run
from simulations.comparable import Run, check_comparable, difference_in_evaluation, first_difference
from simulations.comparison import compare_runs
from simulations.folders import check_name, claim_folder
from simulations.plots import draw_curves
from simulations.prepare import build_method, own_code, resolve
from simulations.simulation import resume, simulate


@dataclass(frozen=True)
class Planned:
    """One run of a comparison."""

    method: str
    """Its row's name."""
    asked: str
    """The config's `method` as it was given."""
    name: str
    config: RunConfig
    data_sha256: str
    """Of its users."""
    import_path: list[str]
    """Folders that the method may be imported from, as in `simulate`."""
    code: dict[str, str]
    """As `simulations.prepare.own_code` has it."""
    looks: bool = True
    """What is evaluated on the way is wanted as well; else any run that ends the same will do."""
    starts_others: bool = False
    """Other runs start from its shared tensors, which a record need not have kept."""


def compare(
    methods: Sequence[str],
    toml: Path | str | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (0, 1, 2),
    name: str = "comparison",
    results: Path | str = "results",
    overwrite: bool = False,
    say: Callable[[str], None] = print,
    watch: Callable[[Path], None] = lambda _folder: None,
) -> dict[str, Any]:
    """Compare methods on the same users, seeds and evaluation: run what is missing, test all against the first.

    Args:
        methods: Names of files in `configs/methods/`, TOML files, or `module:Class`.
        toml: An experiment for all of them.
        overrides: `key=value` for all of them.
        seeds: Each method runs with each.
        name: The comparison's folder under `results`.
        results: Where it goes, and where run records are reused.
        overwrite: Reuse nothing, run everything anew.
        say: Told what is done.
        watch: As in `simulate`.

    Returns:
        What `compare.json` holds.

    Raises:
        InputError: Something asked for is wrong; nothing was run.
        RunFailed: A run failed; those completed before are kept and used the next time.
    """
    folder = claim_folder(results, name)
    if (folder / "cold_start.json").is_file():
        raise InputError(f"{folder} is a cold-start experiment; choose another --name")
    planned = plan(methods, toml, overrides, seeds)
    runs = complete(planned, folder, overwrite, say, watch)
    return write_comparison(runs, planned[0].method, folder)


def plan(
    methods: Sequence[str], toml: Path | str | None, overrides: Sequence[str], seeds: Sequence[int]
) -> list[Planned]:
    """Make every config of a comparison, and check it and its users, before any work.

    The target users are evaluated personalised on the way, `evaluate.every` the config's, else `halving`.

    Args:
        methods: As in the config's `method`.
        toml: An experiment for all of them.
        overrides: `key=value` for all of them.
        seeds: Each method runs with each.

    Raises:
        InputError: A method, key or seed is wrong or twice there, or the methods would not be evaluated alike.
    """
    for kind, given in (("method", methods), ("seed", seeds)):
        for value in given:
            if list(given).count(value) > 1:
                raise InputError(f"{kind} {value} stands there twice")
        if not given:
            raise InputError(f"expected at least one {kind}")
    for word in overrides:
        key, _, value = (part.strip() for part in word.partition("="))
        if key in ("method", "seed"):
            raise InputError(f"{word}: a comparison takes its {key}s by themselves, not as overrides")
        if key == "evaluate.every" and value == "0":
            raise InputError(f"{word}: a comparison looks at least once; evaluate.every=ROUNDS looks at the end alone")
    planned = []
    digest = users_digests()
    labels: dict[str, str] = {}
    for method in methods:
        words = ["evaluate.stage=personalised", *overrides, f"method={method}"]
        label = Path(method).stem if method.endswith(".toml") else method.rpartition(":")[2]
        if (other := labels.setdefault(label, method)) != method:
            raise InputError(f"{other} and {method} would both be called {label}; rename a TOML file")
        for seed in seeds:
            config = resolve(_with_looks(load_config(toml, [*words, f"seed={seed}"])))
            if config.evaluate.stage != "personalised":
                raise InputError("evaluate.stage=collective: comparisons are about the quality after personalisation")
            if config.start_from:
                raise InputError(
                    f"start_from={config.start_from}: a comparison counts the bytes of stage 1, which this leaves out"
                )
            check_name(label, f"method {method!r}")
            code = _check_method(method, config, import_folders(toml, words))
            name = f"{label}-seed{seed}"
            planned.append(Planned(label, method, name, config, digest(config), import_folders(toml, words), code))
    users: dict[int, str] = {}
    for each in planned:
        difference = difference_in_evaluation(planned[0].config, each.config)
        ours, theirs = users.setdefault(each.config.seed, each.data_sha256), each.data_sha256
        if ours != theirs:
            difference = difference or ("users (data_sha256)", ours[:12], theirs[:12])
        if difference:
            key, one, other = difference
            pair = f"{planned[0].method} and {each.method}"
            raise InputError(f"{pair} cannot be compared: {key} is {one!r} in one and {other!r} in the other")
    return planned


def users_digests() -> Callable[[RunConfig], str]:
    """Return a function that tells the digest of a run's users; it looks at the same users once."""
    known: dict[str, str] = {}

    def digest(config: RunConfig) -> str:
        key = json.dumps([config.users.model_dump(), config.task, config.seed])
        if key not in known:
            known[key] = build_table(config).sha256
        return known[key]

    return digest


def _with_looks(config: RunConfig) -> RunConfig:
    if config.evaluate.every:
        return config
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"every": "halving"})})


def _check_method(method: str, config: RunConfig, import_path: Sequence[str]) -> dict[str, str]:
    try:
        return own_code(build_method(config, read_shape(config.backbone), import_path))
    except InputError as error:
        raise InputError(f"{method}: {error}") from None


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
        folder: Where new run records go. Completed ones of the same config and users in it or beside it are used.
        overwrite: Use none, run everything anew.
        say: Told what is done.
        watch: As in `simulate`.

    Raises:
        InputError: `folder` is a run record, holds runs of another config, or is being worked in.
        RunFailed: A run failed; those completed before are kept and used the next time.
    """
    if (folder / "run.json").is_file():
        raise InputError(f"{folder} is a run record; choose another --name")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            found = {} if overwrite else {each.name: find(each, folder) for each in planned}
            return [
                _one(each, found.get(each.name), folder, overwrite, f"{number} of {len(planned)}", say, watch)
                for number, each in enumerate(planned, 1)
            ]
    except Timeout:
        raise InputError(f"{folder}: another command works in it; wait, or choose another --name") from None


def _one(
    planned: Planned,
    there: Path | None,
    folder: Path,
    overwrite: bool,
    place: str,
    say: Callable[[str], None],
    watch: Callable[[Path], None],
) -> Run:
    say(f"{place}: {planned.name}" + (f", reused from {there}" if there else ""))
    if there is None:
        there = folder / planned.name
        try:
            if not overwrite and _began(planned, there):
                say(f"going on where {there} was interrupted")
                resume(planned.name, folder, watch)
            else:
                simulate(planned.config, planned.name, folder, True, planned.import_path, watch)
        except RunFailed as error:
            raise RunFailed(f"{planned.name}: {error}") from None
        except KeyboardInterrupt:
            say("interrupted; the same command goes on from here")
            raise
    return Run.read(there, planned.method)


def _began(planned: Planned, place: Path) -> bool:
    """Tell whether a run of this very config was interrupted there and can be taken up again."""
    try:
        record, (checkpoint, _) = read_run(place), load_checkpoint(place)
        other = first_difference(read_resolved(place / "config.toml"), planned.config)
    except InputError:
        return False
    same = other is None and record.users.data_sha256 == planned.data_sha256
    return same and record.status != "completed" and bool(checkpoint.parts)


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


def started_from(planned: Planned, place: Path) -> Planned:
    """Return a run that begins with the shared tensors of the one in `place`, in place of stage 1."""
    return replace(planned, config=resolve(planned.config.model_copy(update={"start_from": str(place)})))


def find(planned: Planned, folder: Path) -> Path | None:
    """Return a completed record of the same config and users: in the comparison's folder, else anywhere beside it."""
    own = folder / planned.name
    start = read_run(Path(planned.config.start_from)).shared_sha256 if planned.config.start_from else None
    places = [own, *sorted(folder.parent.glob("*/")), *sorted(folder.parent.glob("*/*/"))]
    for place in places:
        if not (place / "run.json").is_file() or not (place / "config.toml").is_file():
            continue
        try:
            record = read_run(place)
            there = read_resolved(place / "config.toml")
            besides = ["users.source"] if planned.looks else ["users.source", "evaluate.every"]
            if start and there.start_from and start == record.shared_sha256:
                # Where the start lies makes no number. What starts from a run keeps its shared tensors as they are.
                besides.append("start_from")
            other = first_difference(there, planned.config, besides)
        except InputError:
            continue  # of another version
        if record.users.data_sha256 != planned.data_sha256:
            other = other or "its users have changed since"
        for file, digest in planned.code.items():
            if record.versions.get(file) != digest:
                other = other or f"{file} has changed since"
        if record.status == "completed" and other is None:
            if planned.starts_others and not (place / "shared.safetensors").is_file():
                continue
            return place
        if record.status == "completed" and place == own:
            raise InputError(f"{own} is of another config ({other}); choose another --name, or delete it")
    return None
