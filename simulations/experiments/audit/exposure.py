"""Exposure of planted canaries, in the shared tensors and in the models that target users are served."""

from collections.abc import Mapping, Sequence

from fl_clients.lamp.canaries import REPEATS, canary_of, candidates, repeats_of
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user_table import OpenedUser
from fl_server.record.folder import RunFolder
from simulations.experiments.audit.numbers import exposure, mean_bits
from simulations.experiments.audit.observed import Losses
from simulations.experiments.audit.schema import Exposure
from simulations.run.served import load_served_model


def exposures(
    files: RunFolder, collective: Losses, members: Sequence[int], targets: Mapping[int, OpenedUser]
) -> list[Exposure]:
    """Return the canaries' exposure by number of repeats.

    Args:
        files: A run with `users.canaries`.
        collective: Of the run's collective part.
        members: Partitions of the collective users that trained.
        targets: The target users by partition.
    """
    shared, served = _bits(files, collective, members), dict[int, float]()
    for partition, user in targets.items() if files.record.params.private else ():
        served |= _bits(files, Losses(load_served_model(files.path, user.user_id)), [partition])

    def of(found: Mapping[int, float], repeats: int) -> list[float]:
        return [bits for partition, bits in found.items() if repeats_of(partition) == repeats]

    seed = files.config.seed
    return [
        Exposure(repeats=n, shared=mean_bits(of(shared, n), seed), served=mean_bits(of(served, n), seed))
        for n in REPEATS
    ]


def _bits(files: RunFolder, losses: Losses, partitions: Sequence[int]) -> dict[int, float]:
    """Return each partition's exposure, without canaries whose answer does not fit."""
    task, seed = find_task(files.config.task), files.config.seed
    others = losses.gained(candidates(task, seed))
    scores = {partition: losses.gained([canary_of(partition, task, seed)]) for partition in partitions}
    return {partition: exposure(float(own[0]), others) for partition, own in scores.items() if len(own)}
