"""A simulated world of devices, and its clock: who is there, who is lost, how long a round takes.

A turn takes download + training + upload: the measured bytes of its tensors, and a constant for the rest of a message,
over the device's links, and measured optimiser steps over its speed. (Whole messages differ by a few bytes between
runs, since Flower's ids are random; who comes first must not hang on that.) Everything random derives from the run's
seed, the round and the user, so that methods meet the same world. As in production systems (Bonawitz et al., arXiv
1902.01046) more clients than needed are asked, the first replies close the round, and a deadline does at the latest.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from configs.conditions import DeviceClass, DevicesConfig
from configs.seeds import derive_seed

_BITS = 8 / 1e6
"""Megabits of a byte."""
_ENVELOPE = 1000
"""Bytes of a message beyond its tensors, about."""


@dataclass(frozen=True)
class Turn:
    """One client's part in a round."""

    user: int
    bytes_down: int
    """Of the tensors sent to it."""
    bytes_up: int
    """Of the tensors it sent."""
    steps: int


@dataclass(frozen=True)
class Closed:
    """How a round went."""

    seconds: float
    """By the virtual clock, until it was closed."""
    finished: dict[int, float]
    """When each reply came, by user; those that did not come in time are not in it."""
    lost: dict[int, str]
    """`dropped` or `late`, by user."""


class Devices:
    """The devices of a run's users."""

    def __init__(self, config: DevicesConfig, seed: int) -> None:
        """Take the config's world; `seed` is the run's."""
        self._config = config
        self._seed = seed

    def device(self, user: int) -> DeviceClass:
        """Return a user's device; it is the same in every round."""
        shares = np.array([each.share for each in self._config.classes])
        pick = self._generator("device", user).choice(len(shares), p=shares / shares.sum())
        return self._config.classes[int(pick)]

    def available(self, number: int, users: Iterable[int]) -> list[int]:
        """Return those of `users` who are there when a round begins."""
        return [user for user in users if self._draw("available", number, user) < self.device(user).available]

    def asked(self, cohort: int) -> int:
        """Return how many are asked so that `cohort` replies come."""
        return math.ceil(cohort * (1 + self._config.over_selection))

    def enough(self, cohort: int) -> int:
        """Return how many updates a round must have."""
        return math.ceil(cohort * self._config.least_share)

    def close(self, number: int, turns: Iterable[Turn], needed: int) -> Closed:
        """Play a round by the clock.

        Args:
            number: The round; nobody is lost in an opening, 0.
            turns: Of everybody asked.
            needed: So many replies close it.
        """
        arrivals: dict[int, float] = {}
        lost: dict[int, str] = {}
        for turn in turns:
            device = self.device(turn.user)
            if number and self._draw("dropout", number, turn.user) < device.dropout:
                lost[turn.user] = "dropped"
            else:
                links = (turn.bytes_down + _ENVELOPE) / device.down_mbit + (turn.bytes_up + _ENVELOPE) / device.up_mbit
                arrivals[turn.user] = links * _BITS + turn.steps / device.steps_per_second
        deadline = self._config.deadline_s if number and self._config.deadline_s else math.inf
        ordered = sorted(arrivals, key=lambda user: (arrivals[user], user))
        finished = {user: arrivals[user] for user in ordered[:needed] if arrivals[user] <= deadline}
        lost |= {user: "late" for user in ordered if user not in finished}
        closed_early = len(finished) == needed or not lost or deadline == math.inf
        seconds = max(finished.values(), default=0.0) if closed_early else deadline
        return Closed(seconds, finished, lost)

    def _draw(self, *names: str | int) -> float:
        return float(self._generator(*names).random())

    def _generator(self, *names: str | int) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self._seed, "devices", *names))
