"""Simulated devices and a virtual clock: who is available, who is lost, how long a round takes.

A task takes download + training + upload: the measured bytes of its tensors, plus a constant for the rest of a message,
over the device's links, and measured optimiser steps over its speed. (Whole messages differ by a few bytes between
runs, because Flower's ids are random; the order of arrival must not depend on that.) Everything random derives from the
run's seed, the round and the user, so that all methods meet the same devices. As in production systems (Bonawitz et
al., arXiv 1902.01046) more clients than needed are asked, the first replies close the round, and a deadline closes it
at the latest.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from configs.environment import DeviceClass, DevicesConfig
from configs.seeds import derive_seed

_BITS = 8 / 1e6
"""Megabits of a byte."""
_ENVELOPE = 1000
"""Bytes of a message beside its tensors, roughly."""


@dataclass(frozen=True)
class DeviceTask:
    """One client's part in a round."""

    user: int
    bytes_down: int
    """Of the tensors sent to it."""
    bytes_up: int
    """Of the tensors it sent."""
    steps: int


@dataclass(frozen=True)
class RoundOutcome:
    """How a round went by the virtual clock."""

    seconds: float | None = None
    """Until it was closed; None without simulated devices."""
    arrived_at_s: dict[int, float] = field(default_factory=dict)
    """When each reply came, by user; late and lost ones are not in it."""
    lost: dict[int, str] = field(default_factory=dict)
    """`dropped` or `late`, by user."""


class DeviceModel(Protocol):
    """Who is available, who is lost, and how long a round takes."""

    may_lose_clients: bool
    """Absent and lost clients belong to this world, and are no reason to stop a run."""

    def device(self, user: int) -> DeviceClass | None:
        """Return a user's device."""

    def available(self, round_number: int, users: Sequence[int]) -> Sequence[int]:
        """Return those of `users` who are available when a round begins."""

    def cohort_size(self, cohort: int) -> int:
        """Return how many are asked so that `cohort` replies come."""

    def quorum(self, cohort: int) -> int:
        """Return how many updates a round must have."""

    def close(self, round_number: int, tasks: Iterable[DeviceTask], needed: int) -> RoundOutcome:
        """Play a round by the clock; `needed` replies close it."""


class NoDevices:
    """Clients are only what they are: all available, none lost, no virtual clock."""

    may_lose_clients = False

    def device(self, _user: int) -> None:
        """Return None."""

    def available(self, _round_number: int, users: Sequence[int]) -> Sequence[int]:
        """Return all."""
        return users

    def cohort_size(self, cohort: int) -> int:
        """Return the cohort's size."""
        return cohort

    def quorum(self, _cohort: int) -> int:
        """Return 1: `faults.min_replies` decides."""
        return 1

    def close(self, _round_number: int, _tasks: Iterable[DeviceTask], _needed: int) -> RoundOutcome:
        """Return that every reply came."""
        return RoundOutcome()


def device_model(config: DevicesConfig, seed: int) -> DeviceModel:
    """Return the devices of a config; `seed` is the run's."""
    return SimulatedDevices(config, seed) if config.classes else NoDevices()


class SimulatedDevices:
    """The devices of a run's users, each of a class drawn by the seed."""

    may_lose_clients = True

    def __init__(self, config: DevicesConfig, seed: int) -> None:
        """Take the config's device classes; `seed` is the run's."""
        self._config = config
        self._seed = seed

    def device(self, user: int) -> DeviceClass:
        """Return a user's device; it is the same in every round."""
        shares = np.array([each.share for each in self._config.classes])
        pick = self._generator("device", user).choice(len(shares), p=shares / shares.sum())
        return self._config.classes[int(pick)]

    def available(self, round_number: int, users: Sequence[int]) -> list[int]:
        """Return those of `users` whose device is available when a round begins."""
        return [user for user in users if self._draw("available", round_number, user) < self.device(user).available]

    def cohort_size(self, cohort: int) -> int:
        """Return how many are asked, over-selection included."""
        return math.ceil(cohort * (1 + self._config.over_selection))

    def quorum(self, cohort: int) -> int:
        """Return the share of the cohort without which a round is abandoned, as a number."""
        return math.ceil(cohort * self._config.least_share)

    def close(self, round_number: int, tasks: Iterable[DeviceTask], needed: int) -> RoundOutcome:
        """Play a round by the clock.

        Args:
            round_number: The round; in an opening, 0, nobody is lost and there is no deadline.
            tasks: Of every client asked.
            needed: So many replies close it.
        """
        arrivals: dict[int, float] = {}
        lost: dict[int, str] = {}
        for task in tasks:
            device = self.device(task.user)
            if round_number and self._draw("dropout", round_number, task.user) < device.dropout:
                lost[task.user] = "dropped"
            else:
                links = (task.bytes_down + _ENVELOPE) / device.down_mbit + (task.bytes_up + _ENVELOPE) / device.up_mbit
                arrivals[task.user] = links * _BITS + task.steps / device.steps_per_second
        deadline = self._config.deadline_s if round_number and self._config.deadline_s else math.inf
        ordered = sorted(arrivals, key=lambda user: (arrivals[user], user))
        in_time = {user: arrivals[user] for user in ordered[:needed] if arrivals[user] <= deadline}
        lost |= {user: "late" for user in ordered if user not in in_time}
        closed_early = len(in_time) == needed or not lost or deadline == math.inf
        seconds = max(in_time.values(), default=0.0) if closed_early else deadline
        return RoundOutcome(seconds, in_time, lost)

    def _draw(self, *names: str | int) -> float:
        return float(self._generator(*names).random())

    def _generator(self, *names: str | int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._seed, "devices", *names))
