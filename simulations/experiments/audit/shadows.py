"""Shadow runs: the same run with half of its collective users, drawn anew each time, for comparison."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from configs.load import flatten
from configs.schema import RunConfig
from configs.secure import SecureConfig
from configs.seeds import derive_seed
from configs.users import UsersConfig
from fl_clients.lamp.select_users import build_table, synthetic_users
from fl_clients.lamp.user_table import OpenedUser
from fl_server.record.folder import RunFolder
from simulations.experiments.audit.observed import Losses
from simulations.run.served import load_served_model
from simulations.run.simulate import simulate


def shadow_losses(
    config: RunConfig,
    users: Sequence[OpenedUser],
    target: str,
    folder: Path,
    count: int,
    log: Callable[[str], None],
    on_progress: Callable[[Path], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Run the missing shadows, and return each user's mean loss in each, and who was in; both [runs, users].

    Args:
        config: The audited run's config.
        users: Its users that trained.
        target: The id of a target user, since a run needs one.
        folder: Where shadow runs are kept; completed ones of the same config are used again.
        count: Number of shadows.
        log: Called with progress messages.
        on_progress: As in `simulate`.
    """
    losses, inside = np.zeros((count, len(users))), np.zeros((count, len(users)), bool)
    for number in range(count):
        generator = np.random.default_rng(derive_seed(config.seed, "shadow", number))
        chosen = np.sort(generator.permutation(len(users))[: len(users) // 2])
        shadow = _shadow(config, [users[place].user_id for place in chosen], target, number)
        place = folder / f"shadow-{number}"
        if not _is_done(place, shadow):
            log(f"shadow {number + 1} of {count}")
            simulate(shadow, place.name, folder, overwrite=place.is_dir(), on_progress=on_progress)
        rows = RunFolder(place).clients(["user", "phase", "status"]).to_pylist()
        trained = {row["user"] for row in rows if (row["phase"], row["status"]) == ("train", "ok")}
        inside[number, [seat for partition, seat in enumerate(chosen) if partition in trained]] = True
        model = Losses(load_served_model(place, None))
        losses[number] = [float(model.of(user.history + user.queries, True).mean()) for user in users]
    return losses, inside


def _shadow(config: RunConfig, ids: list[str], target: str, number: int) -> RunConfig:
    """Return the config with half of the users and of the cohort, and a seed of its own: noise must not be the same."""
    source = str(synthetic_users(config)) if config.users.source == "synthetic" else config.users.source
    users = UsersConfig(
        collective=len(ids),
        target=1,
        source=source,
        select="listed",
        collective_ids=ids,
        target_ids=[target],
        collective_history=config.users.collective_history,
        overlap=config.users.overlap,
        synthetic=config.users.synthetic,
    )
    evaluate = config.evaluate.model_copy(update={"every": 0, "predictions": False})
    cohort = max(1, min(config.cohort // 2, len(ids)))
    faults = config.faults.model_copy(update={"min_replies": None})
    update = {"users": users, "evaluate": evaluate, "cohort": cohort, "faults": faults, "keep": "last"}
    # What masks hide is not what a shadow is for.
    update |= {"secure": SecureConfig(), "seed": derive_seed(config.seed, "shadow run", number) % 2**31}
    return config.model_copy(update=update)


def _is_done(place: Path, config: RunConfig) -> bool:
    files = RunFolder(place)
    if not files.is_record or files.record.status != "completed":
        return False
    mine, theirs = flatten(config), flatten(files.config)
    same = all(theirs.get(key) == value for key, value in mine.items() if key != "users.source")
    return same and files.record.users.data_sha256 == build_table(config).sha256
