"""Simulated devices and a virtual clock: which are available, which are lost, how long a round takes.

A task takes download + training + upload: the measured bytes of its tensors, plus a constant for the rest of a message,
divided by the speed of the device's links, and the measured optimiser steps divided by the device's speed. (Whole
messages differ by a few bytes between runs, because Flower's ids are random; the order of arrival must not depend on
that.) Everything random derives from the run's seed, the round and the user, so all methods get the same devices. As in
production systems (Bonawitz et al., arXiv 1902.01046), more clients than needed are selected, the first replies close
the round, and a deadline closes it at the latest.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from configs.environment import DeviceClass, DevicesConfig
from configs.seeds import derive_seed

_BITS = 8 / 1e6
"""Megabits per byte."""
_ENVELOPE = 1000
"""Approximate bytes of a message besides its tensors."""


@dataclass(frozen=True)
class DeviceTask:
    """One client's task in a round."""

    user: int
    bytes_down: int
    """Bytes of the tensors sent to the client."""
    bytes_up: int
    """Bytes of the tensors the client sent."""
    steps: int


@dataclass(frozen=True)
class RoundOutcome:
    """The outcome of a round on the virtual clock."""

    seconds: float | None = None
    """Time until the round closed; None without simulated devices."""
    arrived_at_s: dict[int, float] = field(default_factory=dict)
    """When a reply arrived, by user; without late and lost replies."""
    lost: dict[int, str] = field(default_factory=dict)
    """`dropped` or `late`, by user."""


class DeviceModel(Protocol):
    """Which clients are available, which are lost, and how long a round takes."""

    may_lose_clients: bool
    """Whether unavailable and lost clients are expected, so that they do not stop a run."""

    def device(self, user: int) -> DeviceClass | None:
        """Return a user's device."""

    def available(self, round_number: int, users: Sequence[int]) -> Sequence[int]:
        """Return those of `users` that are available when a round begins."""

    def cohort_size(self, cohort: int) -> int:
        """Return how many clients to select for `cohort` replies."""

    def quorum(self, cohort: int) -> int:
        """Return how many updates a round needs."""

    def close(self, round_number: int, tasks: Iterable[DeviceTask], needed: int) -> RoundOutcome:
        """Simulate a round on the clock; `needed` replies close it."""


class NoDevices:
    """No simulated devices: all clients are available, none is lost, and there is no virtual clock."""

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
        """Return an outcome without lost replies."""
        return RoundOutcome()


def device_model(config: DevicesConfig, seed: int) -> DeviceModel:
    """Return the devices of a config; `seed` is the run's."""
    return SimulatedDevices(config, seed) if config.classes else NoDevices()


class SimulatedDevices:
    """The devices of a run's users; the class of a device is drawn from the seed."""

    may_lose_clients = True

    def __init__(self, config: DevicesConfig, seed: int) -> None:
        """Use the config's device classes; `seed` is the run's."""
        self._config = config
        self._seed = seed

    def device(self, user: int) -> DeviceClass:
        """Return a user's device; it is the same in every round."""
        shares = np.array([device_class.share for device_class in self._config.classes])
        pick = self._generator("device", user).choice(len(shares), p=shares / shares.sum())
        return self._config.classes[int(pick)]

    def available(self, round_number: int, users: Sequence[int]) -> list[int]:
        """Return those of `users` whose device is available when a round begins."""
        return [user for user in users if self._draw("available", round_number, user) < self.device(user).available]

    def cohort_size(self, cohort: int) -> int:
        """Return how many clients to select, including over-selection."""
        return math.ceil(cohort * (1 + self._config.over_selection))

    def quorum(self, cohort: int) -> int:
        """Return the number of updates below which a round is abandoned."""
        return math.ceil(cohort * self._config.least_share)

    def close(self, round_number: int, tasks: Iterable[DeviceTask], needed: int) -> RoundOutcome:
        """Simulate a round on the clock.

        Args:
            round_number: The round; in the opening (0), no client is lost and there is no deadline.
            tasks: The tasks of all clients that replied.
            needed: Number of replies that close the round.
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
        # If no client is there, the server only learns it at the deadline.
        closed_early = len(in_time) == needed or (arrivals and not lost) or deadline == math.inf
        seconds = max(in_time.values(), default=0.0) if closed_early else deadline
        return RoundOutcome(seconds, in_time, lost)

    def _draw(self, *names: str | int) -> float:
        return float(self._generator(*names).random())

    def _generator(self, *names: str | int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._seed, "devices", *names))
