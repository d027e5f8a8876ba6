"""Exposure of planted canaries, in the shared tensors and in the models that target users are served, and ε from it."""

from collections.abc import Mapping, Sequence

import numpy as np

from fl_clients.lamp.canaries import REPEATS, canary_of, candidates, repeats_of
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user_table import OpenedUser
from fl_server.record.folder import RunFolder
from simulations.experiments.audit.numbers import epsilon_proved, exposure, mean_bits
from simulations.experiments.audit.observed import Losses
from simulations.experiments.audit.schema import Bits, Exposure


def exposures(files: RunFolder, collective: Losses, targets: Mapping[int, OpenedUser]) -> tuple[list[Exposure], float]:
    """Return the canaries' exposure by number of repeats, and what guessing the coins of collective users proves of ε.

    Args:
        files: A run with `users.canaries`.
        collective: Of the run's collective part.
        targets: The target users by partition.
    """
    seed, users = files.config.seed, files.config.users
    # All who could be drawn: who was drawn is a secret that the accountant counts on, and may depend on a coin.
    shared, served = _bits(files, collective, range(users.collective - users.held_out)), dict[int, float]()
    for partition, user in targets.items() if files.record.params.private else ():
        served |= _bits(files, Losses(collective.model.of_user(user.user_id)), [partition])

    def mean(by_partition: Mapping[int, float], collective: bool, repeats: int) -> Bits | None:
        chosen = [
            bits for partition, bits in by_partition.items() if repeats_of(partition, collective, seed) == repeats
        ]
        return mean_bits(chosen, seed)

    rows = [
        Exposure(repeats=number, shared=mean(shared, True, number), served=mean(served, False, number))
        for number in (0, *REPEATS)
    ]
    planted = np.array([repeats_of(partition, True, seed) > 0 for partition in shared])
    delta = files.record.privacy.delta if files.record.privacy else 0.0
    return rows, epsilon_proved(np.array(list(shared.values())), planted, delta)


def _bits(files: RunFolder, losses: Losses, partitions: Sequence[int]) -> dict[int, float]:
    """Return each partition's exposure, without canaries whose answer does not fit."""
    task, seed = find_task(files.config.task), files.config.seed
    others = losses.gained(candidates(task, seed))
    scores = {partition: losses.gained([canary_of(partition, task, seed)]) for partition in partitions}
    return {partition: exposure(float(values[0]), others) for partition, values in scores.items() if len(values)}
