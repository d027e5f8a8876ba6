"""Config keys for a world that is not perfect: faults, bad updates, and devices that are slow, absent or lost."""

from typing import Literal

from pydantic import Field, model_validator

from configs.base import Group


class FaultsConfig(Group):
    """What becomes of clients that fail and of updates that cannot be right."""

    retries: int = Field(2, ge=0)
    """How often a client that failed is asked again."""
    client_seconds: float = Field(3600, gt=0, le=1e9)
    """Longest time for one task of one client, after which its worker process is ended and it is asked again
    (`engine = "ray"`); of a real device, also the longest it may be away when it is asked."""
    min_replies: int | None = Field(None, ge=1)
    """Updates a round must have; it goes on without clients that fail for good and without rejected updates, and the
    record says which. By default one for each user of the cohort: the run fails."""
    max_norm_ratio: float = Field(100, gt=1)
    """An update whose step is more than so many times as long as the cohort's median is rejected."""


class RobustConfig(Group):
    """How a round's updates are guarded before they are averaged."""

    rule: Literal["none", "clip", "median", "trimmed_mean", "krum"] = "none"
    """See strategies/aggregation/robust.py."""
    share: float = Field(0.2, ge=0, lt=0.5)
    """Share of clients that `trimmed_mean` and `krum` guard against."""


class DeviceClass(Group):
    """Devices of one kind."""

    name: str
    """For the records."""
    share: float = Field(gt=0, le=1e9)
    """Weight of the class among the users' devices."""
    steps_per_second: float = Field(ge=1e-6, le=1e9)
    """Optimiser steps of local training a second."""
    up_mbit: float = Field(ge=1e-6, le=1e9)
    """Uplink, Mbit/s."""
    down_mbit: float = Field(ge=1e-6, le=1e9)
    """Downlink, Mbit/s."""
    available: float = Field(1, gt=0, le=1)
    """Probability of being there when a round begins."""
    dropout: float = Field(0, ge=0, lt=1)
    """Probability of being lost between download and upload."""
    memory_mb: float | None = Field(None, gt=0)
    """Memory that a task may take, MB (10⁶ bytes); a task that took more is reported. None: nobody looks."""


class DevicesConfig(Group):
    """A simulated world of devices with a virtual clock (fl_server/simulated_devices.py); none without classes."""

    preset: str = ""
    """A file in `configs/devices/` by name, or the path of another like those; the keys below override it."""
    classes: list[DeviceClass] = Field([])
    """Kinds of devices; each user has one, drawn by the seed."""
    deadline_s: float | None = Field(None, gt=0)
    """Simulated seconds after which a round is closed; None waits for all who are not lost."""
    over_selection: float = Field(0, ge=0)
    """So much more than the cohort is asked; the first `cohort` replies close the round."""
    least_share: float = Field(0.5, gt=0, le=1)
    """Share of the cohort without whose updates a round is abandoned: nothing is averaged, the next begins."""

    @model_validator(mode="after")
    def _named_once(self) -> "DevicesConfig":
        for key, field in type(self).model_fields.items():
            if not self.classes and getattr(self, key) not in (field.default, ""):
                raise ValueError(f"{key} needs devices: give devices.preset or devices.classes")
        names = [each.name for each in self.classes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"class {name!r} stands there twice")
        return self
