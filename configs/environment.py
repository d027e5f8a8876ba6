"""Config keys for imperfect conditions: faults, bad updates, and devices that are slow, unavailable or drop out."""

from typing import Literal

from pydantic import Field, model_validator

from configs.base import Group


class FaultsConfig(Group):
    """How failed clients and invalid updates are handled."""

    retries: int = Field(2, ge=0)
    """Number of retries for a client that failed."""
    client_seconds: float = Field(3600, gt=0, le=1e9)
    """Time limit for one task of one client, after which its worker process is ended and the task is retried
    (`engine = "ray"`); for a real device, also the longest time it may be offline when a task is due."""
    min_replies: int | None = Field(None, ge=1)
    """Minimum number of updates per round. The round continues without clients that have no retries left and without
    rejected updates, and the record lists them. Default: the cohort size, so that any missing update fails the run."""
    max_norm_ratio: float = Field(100, gt=1)
    """An update is rejected if its step is longer than this many times the cohort's median step."""


class RobustConfig(Group):
    """Protection against bad updates, applied before a round's updates are averaged."""

    rule: Literal["none", "clip", "median", "trimmed_mean", "krum"] = "none"
    """See strategies/aggregation/robust.py."""
    share: float = Field(0.2, ge=0, lt=0.5)
    """Share of clients that `trimmed_mean` and `krum` guard against."""


class DeviceClass(Group):
    """One kind of device."""

    name: str
    """Name in the records."""
    share: float = Field(gt=0, le=1e9)
    """Weight of the class among the users' devices."""
    steps_per_second: float = Field(ge=1e-6, le=1e9)
    """Optimiser steps of local training per second."""
    up_mbit: float = Field(ge=1e-6, le=1e9)
    """Uplink, Mbit/s."""
    down_mbit: float = Field(ge=1e-6, le=1e9)
    """Downlink, Mbit/s."""
    available: float = Field(1, gt=0, le=1)
    """Probability of being available when a round begins."""
    dropout: float = Field(0, ge=0, lt=1)
    """Probability of dropping out between download and upload."""
    memory_mb: float | None = Field(None, gt=0)
    """Memory limit of a task, MB (10⁶ bytes); a task that exceeds it is reported. None: not checked."""


class DevicesConfig(Group):
    """Simulated devices with a virtual clock (fl_server/simulated_devices.py); off if no classes are given."""

    preset: str = ""
    """A file in `configs/devices/` by name, or the path of a similar file; the keys below override it."""
    classes: list[DeviceClass] = Field([])
    """Kinds of devices; each user's is drawn by the seed."""
    deadline_s: float | None = Field(None, gt=0)
    """Simulated seconds after which a round closes; None waits for all clients that have not dropped out."""
    over_selection: float = Field(0, ge=0)
    """Clients sampled beyond the cohort, as a share of it; the first `cohort` replies close the round."""
    least_share: float = Field(0.5, gt=0, le=1)
    """Share of the cohort whose updates a round needs; with fewer it is abandoned: nothing is averaged."""

    @model_validator(mode="after")
    def _named_once(self) -> "DevicesConfig":
        for key, field in type(self).model_fields.items():
            if not self.classes and getattr(self, key) not in (field.default, ""):
                raise ValueError(f"{key} needs devices: set devices.preset or devices.classes")
        names = [device.name for device in self.classes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"class {name!r} is given twice")
        return self
