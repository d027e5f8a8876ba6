"""`fedperfit audit`: attacks a completed run, given its models or what its clients send."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from configs.errors import InputError
from configs.files import write_atomic
from fl_clients.lamp.canaries import is_canary
from fl_clients.lamp.synthetic.generate import planted_taste
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user_table import OpenedUser, open_user
from fl_server.record.folder import RunFolder
from simulations.experiments.audit.exposure import exposures
from simulations.experiments.audit.guesses import infer_answer, infer_taste, link
from simulations.experiments.audit.numbers import attack, epsilon_suggested, likelihood_ratios, means
from simulations.experiments.audit.observed import Losses, turns
from simulations.experiments.audit.schema import Attack, Audit, Guess
from simulations.experiments.audit.shadows import shadow_losses
from simulations.run.folders import check_experiment, claim_folder
from simulations.run.preflight import keeps_clients_apart
from simulations.run.rebuild_users import rebuild_users
from simulations.run.served import ServedModel, load_served_model

_FEWEST = 10
"""Users below which nothing is inferred from updates."""
_FEWEST_SHADOWS = 4
"""With fewer, hardly any user was both in and out."""


def audit(
    run: Path,
    name: str = "",
    results: Path | str = "results",
    shadows: int = 0,
    log: Callable[[str], None] = print,
    on_progress: Callable[[Path], None] = lambda _folder: None,
) -> Audit:
    """Attack a completed run, and write `audit.json`.

    Args:
        run: The run record.
        name: The audit's folder under `results`; by default `audit-` and the run's name.
        results: The folder of results.
        shadows: Shadow runs for the attack by likelihood ratio; 0: none.
        log: Called with progress messages.
        on_progress: As in `simulate`.

    Raises:
        InputError: The run did not complete, has no stage 1 of its own, or its users are not here; or there are fewer
            than 4 shadows.
        RunFailed: A shadow run failed.
    """
    folder, files = claim_folder(results, name or f"audit-{run.name}"), RunFolder(run)
    check_experiment(folder, "audit.json")
    _check(files, shadows)
    config = files.config
    data = rebuild_users(files).folder
    collective = load_served_model(run, None)
    members, targets = _members(files, data), _targets(files, data)
    if shadows and len(members) < 2:
        raise InputError(f"{run}: {len(members)} user trained in it; a shadow run trains half of them, expected 2")
    log(f"losses of {len(members)} users who trained and {len(targets)} who did not")
    losses = Losses(collective)
    report = _membership(files, folder, losses, members, targets)
    if config.users.canaries:
        # An update would hold up to 16 copies of a text that only its sender has, so nothing is read from updates.
        log("exposure of the canaries")
        report.exposures, report.epsilon_at_least = exposures(files, losses, targets)
    elif not config.secure.aggregation and len(members) >= _FEWEST and _sends_alike(collective):
        log(f"two updates of {len(members)} users")
        report.usual_answer, report.taste, report.linked = _from_updates(collective, files, data, members)
    if shadows:
        target = next(iter(targets.values())).user_id
        observed = shadow_losses(config, list(members.values()), target, folder, shadows, log, on_progress)
        report.shadows, report.shadow_runs = _by_shadows(*observed, config.seed), shadows
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "audit.json", report.to_json())
    return report


def _sends_alike(model: ServedModel) -> bool:
    """Tell whether a client's updates of two rounds can be compared: same tensors, and more than an opening."""
    method = model.method
    return method.constant_shapes and method.last_round != 0 and not keeps_clients_apart(method, model.backbone.shape)


def _membership(
    files: RunFolder, folder: Path, losses: Losses, members: dict[int, OpenedUser], targets: dict[int, OpenedUser]
) -> Audit:
    """Return an audit with the attacks on who and what was trained on."""
    record, seed = files.record, files.config.seed
    inside, outside = (_gained(losses, side) for side in (members, targets))
    delta = record.privacy.delta if record.privacy else 0.0
    return Audit(
        name=folder.name,
        run=os.path.relpath(files.path, folder),
        method=record.method,
        task=record.task,
        shared_items=attack(inside, outside, seed),
        shared_users=attack(means(inside), means(outside), seed),
        served_items=_served(losses.model, targets, seed),
        epsilon_suggested=epsilon_suggested(_flat(inside), _flat(outside), delta),
        epsilon_at_most=record.privacy.epsilon if record.privacy else None,
    )


def _check(files: RunFolder, shadows: int) -> None:
    record = files.record
    if 0 < shadows < _FEWEST_SHADOWS:
        raise InputError(f"expected none or at least {_FEWEST_SHADOWS}", field="shadows", value=shadows)
    if shadows and files.config.users.canaries:
        raise InputError("expected none: shadow runs have no canaries", field="shadows", value=shadows)
    if record.users.source == "devices":
        raise InputError(f"{files.path}: the users of a real federation are on their devices")
    if not record.params.shared or files.config.start_from:
        raise InputError(f"{files.path}: expected a run with a stage 1 of its own")


def _members(files: RunFolder, data: Path) -> dict[int, OpenedUser]:
    """Return the users whose updates counted, by partition."""
    rows = files.clients(["user", "phase", "status"]).to_pylist()
    trained = {row["user"] for row in rows if (row["phase"], row["status"]) == ("train", "ok")}
    return {user: _opened(data, user) for user in sorted(trained)}


def _targets(files: RunFolder, data: Path) -> dict[int, OpenedUser]:
    users = files.record.users
    return {user: _opened(data, user) for user in range(users.collective, users.collective + users.target)}


def _opened(data: Path, partition: int) -> OpenedUser:
    """Return a user without its canary, which only `exposures` looks at."""
    user = open_user(data, partition)
    return user._replace(history=[pair for pair in user.history if not is_canary(pair)])


def _gained(losses: Losses, users: dict[int, OpenedUser]) -> dict[int, np.ndarray]:
    """Return every user's scores, without users none of whose answers fits."""
    gains = {partition: losses.gained(user.history + user.queries) for partition, user in users.items()}
    return {partition: scores for partition, scores in gains.items() if len(scores)}


def _flat(scores: dict[int, np.ndarray]) -> np.ndarray:
    """Return one score per user."""
    return np.concatenate(list(means(scores).values()))


def _served(collective: ServedModel, targets: dict[int, OpenedUser], seed: int) -> Attack | None:
    """Attack the models that target users are served: are their histories known better than their questions?"""
    if not collective.record.params.private:
        return None
    inside, outside = {}, {}
    for partition, user in targets.items():
        if user.history and user.queries:
            losses = Losses(collective.of_user(user.user_id))
            inside[partition], outside[partition] = losses.gained(user.history), losses.gained(user.queries)
    collective.personalise(False)
    return attack(inside, outside, seed) if inside else None


def _from_updates(
    model: ServedModel, files: RunFolder, data: Path, members: dict[int, OpenedUser]
) -> tuple[Guess | None, Guess | None, Guess]:
    """Infer usual answers and planted tastes from updates, and link two updates of a user."""
    config = files.config
    members = {partition: user for partition, user in members.items() if user.history}
    first, second = turns(model, files, data, list(members))
    usual = taste = None
    if find_task(config.task).labels:
        answers = [Counter(pair.target for pair in user.history).most_common(1)[0][0] for user in members.values()]
        usual = infer_answer(second, answers)
    if config.users.source == "synthetic":
        deviation = config.users.synthetic.deviation
        tastes = [planted_taste(config.task, deviation, config.seed, user.user_id) for user in members.values()]
        worths = [np.stack([one[slot] for one in tastes]) for slot, row in tastes[0].items() if len(row) > 1]
        taste = infer_taste(second, worths, config.seed)
    return usual, taste, link(first, second)


def _by_shadows(losses: np.ndarray, inside: np.ndarray, seed: int) -> Attack | None:
    members, others = likelihood_ratios(losses, inside)
    both = members.keys() & others.keys()
    if not both:
        return None
    return attack({user: members[user] for user in sorted(both)}, {user: others[user] for user in sorted(both)}, seed)
