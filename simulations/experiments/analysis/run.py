"""`fedperfit analyze`: run the method `delta` if that is missing, and write what its vectors show."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from configs.errors import InputError
from configs.files import write_atomic
from configs.load import flatten, load_config
from configs.paths import expand
from configs.schema import RunConfig
from fl_clients.lamp.user_table import open_user
from fl_clients.private_store import private_path
from fl_server.record.folder import RunFolder
from fl_server.record.schema import read_run
from fl_server.record.tensors import read_tensors
from simulations.experiments.analysis.figures import draw, draw_together
from simulations.experiments.analysis.numbers import (
    COORDINATES,
    SHARES,
    Decomposition,
    cosines_of_means,
    mantel,
    nearest_first,
    share_in_span,
)
from simulations.experiments.analysis.schema import Analysis, SiteAnalysis, Taste, TrainedSite
from simulations.experiments.analysis.texts import write_texts
from simulations.experiments.analysis.together import (
    Vectors,
    by_user,
    check_comparable,
    load,
    of,
    sites_of,
    stacked,
    together,
)
from simulations.experiments.comparable import Run
from simulations.experiments.compare import complete
from simulations.experiments.plan import plan
from simulations.run.folders import check_experiment, claim_folder
from simulations.run.rebuild_users import rebuild_users
from strategies.delta_vectors import DELTA, RANDOM


def analyze(
    toml: Path | str | None = None,
    overrides: Sequence[str] = (),
    name: str = "analysis",
    results: Path | str = "results",
    trained: Path | None = None,
    named: int = 3,
    texts: bool = False,
    others: Sequence[str] = (),
    log: Callable[[str], None] = print,
    on_progress: Callable[[Path], None] = lambda _folder: None,
) -> Analysis:
    """Analyse the δ-vectors of a config's users, which they send once.

    Args:
        toml: An experiment file.
        overrides: `key=value`.
        name: The analysis' folder under `results`.
        results: The folder of results; a completed run of the same users is reused.
        trained: A completed run of PerFit on the same users, to be compared with the vectors.
        named: How many users are named as nearest, middle and farthest.
        texts: Write these users' last items to `private/texts.txt`.
        others: Names of earlier analyses to compare with, usually of other tasks.
        log: Called with progress messages.
        on_progress: As in `simulate`.

    Raises:
        InputError: An argument is invalid, fewer than three users have vectors, or the trained run does not fit.
        RunFailed: The run failed.
    """
    folder = claim_folder(results, name)
    check_experiment(folder, "analysis.json")
    if any((expand(results) / other).resolve() == folder.resolve() for other in others):
        raise InputError("an analysis cannot be compared with itself", field="with", value=name)
    loaded = [load(expand(results) / other) for other in others]
    seed = load_config(toml, [*overrides, "method=delta"]).seed
    words = [word for word in overrides if word.partition("=")[0].strip() not in ("seed", "method")]
    planned = plan(["delta"], toml, words, [seed])
    if trained:
        _check_trained(trained, planned[0].config)
    check_comparable(planned[0].config, loaded)
    # The vectors are read from the tensors, which a record may not have kept.
    (run,) = complete([replace(planned[0], starts_others=True)], folder, False, log, on_progress)
    tensors = load_file(run.files.shared)
    vectors, control = (by_user(tensors, prefix) for prefix in (DELTA, RANDOM))
    if len(vectors) < 3:
        raise InputError(f"{len(vectors)} users have two items or more: expected at least 3")
    report = _found(run, vectors, control, folder, named)
    if trained:
        report.trained = _spans(trained, run, vectors)
        report.taste = _taste(trained)
    if loaded:
        loaded.insert(0, of(report, vectors, control))
        report.together = together(loaded)
        draw_together([each.vectors for each in loaded], report.together, folder)
    real = run.record.users.source != "synthetic"
    write_atomic(folder / "analysis.json", report.to_json(), private=real)  # it names users
    draw(stacked(vectors), stacked(control), report, folder)
    if texts:
        groups = dict(zip(("nearest", "middle", "farthest"), _named(vectors, named), strict=True))
        write_texts(groups, rebuild_users(run.files).folder, folder / "private")
    return report


def _named(vectors: Vectors, named: int) -> tuple[list[int], list[int], list[int]]:
    """Return the users nearest to the mean at the middle site, in the middle, and farthest, the nearest first."""
    wide = stacked(vectors)
    order = [sorted(vectors)[place] for place in nearest_first(wide[:, wide.shape[1] // 2])]
    begin = max(0, (len(order) - named) // 2)
    return order[:named], order[begin : begin + named], order[::-1][:named]


def _found(run: Run, vectors: Vectors, control: Vectors, folder: Path, named: int) -> Analysis:
    deltas, random = stacked(vectors), stacked(control)
    sites = sites_of(run.config)
    ids = run.files.users(["user_id"])["user_id"].to_pylist()
    nearest, middle, farthest = ([str(ids[user]) for user in users] for users in _named(vectors, named))
    return Analysis(
        name=folder.name,
        run=os.path.relpath(run.folder, folder),
        task=run.config.task,
        backbone=run.config.backbone,
        users=len(vectors),
        left_out=len(ids) - len(vectors),
        sites=[_site(site, deltas[:, place], random[:, place]) for place, site in enumerate(sites)],
        nearest=nearest,
        middle=middle,
        farthest=farthest,
    )


def _site(site: int, vectors: np.ndarray, control: np.ndarray) -> SiteAnalysis:
    parts = Decomposition.of(vectors)
    coordinates, other = parts.coordinates(), parts.coordinates(control)
    return SiteAnalysis(
        site=site,
        ranks={f"{share:.0%}": parts.rank(share) for share in SHARES},
        mean_share=parts.mean_share,
        coordinates_mean=coordinates.mean(axis=0).tolist(),
        coordinates_deviation=coordinates.std(axis=0, ddof=1).tolist(),
        control=(np.abs(other).mean(axis=0) / np.abs(coordinates).mean(axis=0)).tolist(),
        control_cosine=cosines_of_means([vectors, control])[0][1],
    )


_R = "shared_collective.{}.R"
_OTHER_QUESTIONS = ("users.synthetic.queries", "users.held_out", "users.overlap", "users.canaries")
"""Settings of users that leave the same users their histories."""


def _check_trained(place: Path, config: RunConfig) -> None:
    record = read_run(place)
    if record.status != "completed" or record.method != "perfit":
        raise InputError("expected a completed run of perfit", field="trained", value=place)
    ours, theirs = flatten(config), flatten(RunFolder(place).config)
    users = [key for key in ours if key.startswith("users.") and key not in _OTHER_QUESTIONS]
    for key in ("task", "backbone", "seed", *users):
        if ours[key] != theirs[key]:
            raise InputError(f"its {key} is {theirs[key]}; expected {ours[key]}", field="trained", value=place)
    shared, sites = read_tensors(RunFolder(place).shared), sites_of(config)
    if not any(_R.format(site) in shared for site in sites):
        raise InputError(f"{place}: it has none of the sites {sites}; set sites to its own")


def _spans(trained: Path, run: Run, vectors: Vectors) -> list[TrainedSite]:
    """Return, for every site of both runs, how much of the collective direction the collective shift can reach."""
    shared = read_tensors(RunFolder(trained).shared)
    trained_sites = []
    for place, site in enumerate(sites_of(run.config)):
        if (tensor := shared.get(_R.format(site))) is not None:
            R = tensor.numpy()
            mean = stacked(vectors)[:, place].astype(np.float64).mean(axis=0)
            if len(mean) != R.shape[1]:
                raise InputError(
                    f"{trained}: its hidden states are {R.shape[1]} wide, those of {run.folder} {len(mean)}"
                )
            chance = len(R) / R.shape[1]
            trained_sites.append(
                TrainedSite(site=site, rank=len(R), share_in_span=share_in_span(mean, R), by_chance=chance)
            )
    return trained_sites


def _taste(trained: Path) -> Taste | None:
    """Compare users' b⁽²⁾ with what they answered before; None if fewer than five kept one, or all are alike."""
    files = RunFolder(trained)
    users = [row["partition"] for row in files.users().to_pylist()[files.record.users.collective :]]
    kept = [user for user in users if private_path(trained / "private", user).is_file()]
    if len(kept) < COORDINATES:
        return None
    table = rebuild_users(files).folder
    shifts, counts = [], []
    labels: list[str] = []
    for user in kept:
        if not (counted := Counter(pair.target for pair in open_user(table, user).history)):
            continue
        tensors = load_file(private_path(trained / "private", user))
        shifts.append(np.concatenate([value for name, value in sorted(tensors.items()) if name.endswith(".b")]))
        labels += [label for label in sorted(counted) if label not in labels]
        counts.append(counted)
    answers = np.array([[counted[label] / sum(counted.values()) for label in labels] for counted in counts])
    test = mantel(np.stack(shifts), answers, files.record.seed)
    return Taste(users=len(counts), correlation=test[0], p_value=test[1]) if test else None
