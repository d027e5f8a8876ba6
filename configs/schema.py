"""The typed, frozen config of one run, with every key that a TOML file or a dotted override may set."""

import os
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.base import Group as _Group
from configs.environment import DevicesConfig, FaultsConfig, RobustConfig
from configs.exchange import ServerConfig, WireConfig
from configs.privacy import PrivacyConfig
from configs.secure import SecureConfig
from configs.training import FitConfig, PersonalConfig
from configs.users import UsersConfig


class HistoryConfig(_Group):
    """What of a user's history is put before a question, with any method."""

    retrieve: int = Field(0, ge=0)
    """Items whose texts match a question best (BM25) precede it, with the collective and the personalised shift, in
    training too; an example gets earlier items only. The bare backbone gets the bare question. 0: none."""


class RankConfig(_Group):
    """Ranks of the two shifts."""

    shared: int | list[int] = 12
    """r⁽¹⁾, the collective shift's rank; a list gives one for each site."""
    private: int | list[int] = 16
    """r⁽²⁾, the personalised shift's rank, likewise."""


class EvaluateConfig(_Group):
    """When and how target users are evaluated."""

    every: int | Literal["halving"] = 0
    """Also evaluate target users every this many rounds; 0: only after stage 1; `halving`: after half of the rounds,
    a quarter and so on, which are evenly spaced on a logarithmic axis of bytes."""
    point: Literal["collective", "personalised"] = "collective"
    """What a midway evaluation measures: the collective shift, or also a personalisation from it, which is not
    kept."""
    batch_size: int = Field(8, ge=1)
    """Queries scored together."""
    words: Literal["latin", "unicode"] = "latin"
    """What ROUGE counts as a word. `latin`: a to z and digits, as LaMP does; a perfect answer in another script scores
    0. `unicode`: letters and digits of every script; Chinese, Japanese and Thai by character."""
    predictions: bool = True
    """Write `predictions.jsonl` (query id, gold, prediction) into the run record."""

    @field_validator("every", mode="before")
    @classmethod
    def _is_a_spacing(cls, given: Any) -> Any:
        if given != "halving" and (type(given) is not int or given < 0):
            raise ValueError(f"{given!r}: expected a number of rounds, or halving")
        return given

    def midway_rounds(self, rounds: int) -> set[int]:
        """Return the rounds, out of `rounds`, after which target users are evaluated midway; never the last."""
        if self.every == "halving":
            return {rounds >> times for times in range(1, rounds.bit_length())}
        return set(range(self.every, rounds, self.every)) if self.every else set()


_SMALLEST_SHARE = 1e-3
"""Of a GPU, for one client: a smaller one would let more than a thousand clients run at once."""


class PartitionsConfig(_Group):
    """The slices of (real or simulated) GPU and CPU that clients run on."""

    gpus: float = Field(0, ge=0)
    """GPUs of the machine; a larger number makes them logical, for simulated partitions."""
    per_client: float = Field(0, ge=0)
    """Share of a GPU per client; enforced as a memory fraction on real GPUs."""
    cpus: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=1024)
    """CPU cores in total; there is a process for every client that fits."""
    cpus_per_client: int = Field(1, ge=1)
    """CPU cores, and therefore threads, per client. A seed reproduces results only for the same number: sums split
    over threads may round differently."""

    @model_validator(mode="after")
    def _fit_together(self) -> "PartitionsConfig":
        if self.cpus_per_client > self.cpus:
            raise ValueError(f"cpus_per_client={self.cpus_per_client} is more than cpus={self.cpus}")
        if self.per_client > self.gpus:
            raise ValueError(f"per_client={self.per_client} is more than gpus={self.gpus}")
        if 0 < self.per_client < _SMALLEST_SHARE:
            raise ValueError(f"per_client={self.per_client:g}: expected at least {_SMALLEST_SHARE:g} of a GPU")
        if self.gpus and not self.per_client:
            raise ValueError(f"gpus={self.gpus} needs per_client, the share of a GPU per client")
        if self.gpus != int(self.gpus):
            raise ValueError(f"gpus={self.gpus} must be a whole number of GPUs")
        if self.per_client > 1 and self.per_client != int(self.per_client):
            raise ValueError(f"per_client={self.per_client} must be at most 1 or a whole number")
        return self

    @property
    def clients_at_once(self) -> int:
        """How many clients run side by side."""
        places = self.cpus // self.cpus_per_client
        if not self.gpus:
            return places
        # A client with less than a whole GPU uses one GPU.
        at_gpus = int(self.gpus) * int(1 / self.per_client) if self.per_client < 1 else int(self.gpus / self.per_client)
        return min(places, at_gpus)


class RayConfig(_Group):
    """The Ray cluster to use."""

    address: str = ""
    """`host:port` of a running cluster that this machine is a node of, or `auto`; clients then use the CPUs and GPUs
    of its nodes. Empty: the environment variable `RAY_ADDRESS`; if that is not set, the run starts its own Ray."""


class RunConfig(_Group):
    """The complete config of one run, stored as `config.toml` in its run record."""

    method: str = "perfit"
    """A file in `configs/methods/` by name, the path of a similar TOML file, or an object reference
    `module:Class`."""
    settings: dict[str, Any] = Field({})
    """Constructor arguments of the method that are not config keys themselves."""
    preset: Literal["default", "paper"] = "default"
    """`default`: settings chosen on the default backbone; `paper`: PerFit's Table 9 and training settings, for
    Llama-2-7B, from `configs/paper.toml` and the `[paper]` tables of the method's and the task's TOML."""
    task: str = "movie_tagging"
    """A task of fl_clients/lamp/tasks.py."""
    backbone: str = "smollm2-135m"
    """`smollm2-135m`, `tiny`, a local folder, or a hub id that `AutoModelForCausalLM` can load, such as `org/model` or
    `org/model@revision`. The record has the commit that was loaded."""
    seed: int = Field(0, ge=0)
    """All randomness derives from it (configs/seeds.py)."""
    engine: Literal["ray", "inline", "vectorized"] = "ray"
    """`ray`: clients side by side in Ray actors; `inline`: this process, one client at a time; `vectorized`: this
    process, the training steps of several clients in one pass."""
    clients_per_pass: int = Field(16, ge=1, le=64)
    """Clients whose training steps are one pass (`engine = "vectorized"`). The server asks at most 64 at a time."""
    users: UsersConfig = UsersConfig()
    start_from: str = ""
    """A completed run record whose shared tensors replace stage 1, which is skipped; what concerns stage 2 alone may
    differ. Its collective users cannot be target users of this run, unless `users.overlap` is set."""
    rounds: int = Field(8, ge=1)
    """Rounds of stage 1."""
    cohort: int = Field(8, ge=1)
    """Collective users per round."""
    keep: Literal["last", "best"] = "last"
    """Which shared tensors stage 1 ends with. `best`: those of the round with the best main metric on the
    `users.held_out`, or the initial ones, if no round was better."""
    aggregation: str = "mean"
    """How R, W, b are averaged: `mean`, `procrustes` or `function` (strategies/shifts/averages.py)."""
    sites: list[int] | str = "6 spread"
    """Decoder blocks whose output is intervened on, counted from 0: a list, `every 4`, or `6 spread` (evenly, down to
    four fifths of the depth)."""
    private_sites: list[int] | str = ""
    """The sites of the personalised shift, likewise; empty: those of the collective shift."""
    positions: str = "all"
    """Prompt tokens intervened on: `f7+l7` (first 7 and last 7), `l7`, `f7`, `all`, or `all-f1` (all but the first)."""
    rank: RankConfig = RankConfig()
    joint_private_init: bool = False
    """Stage 1 also trains the common start of the personalised shifts, which is then sent too."""
    history: HistoryConfig = HistoryConfig()
    local: FitConfig = FitConfig()
    personal: PersonalConfig = PersonalConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    decoding: Literal["deterministic", "paper"] = "deterministic"
    """`deterministic`: label likelihoods or greedy; `paper`: temperature 0.1, top-k 10, top-p 0.9."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the backbone; adapters and optimiser are always fp32."""
    activations_mb: int = Field(4096, ge=0)
    """Size limit, MB, for cached hidden states of the frozen part of the backbone, shared by all runs and processes;
    0 recomputes them each time."""
    partitions: PartitionsConfig = PartitionsConfig()
    ray: RayConfig = RayConfig()
    wire: WireConfig = WireConfig()
    server: ServerConfig = ServerConfig()
    faults: FaultsConfig = FaultsConfig()
    robust: RobustConfig = RobustConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    secure: SecureConfig = SecureConfig()
    devices: DevicesConfig = DevicesConfig()

    @model_validator(mode="after")
    def _fit_together(self) -> "RunConfig":
        if self.faults.min_replies and self.faults.min_replies > self.cohort:
            raise ValueError(f"faults.min_replies={self.faults.min_replies} is more than cohort={self.cohort}")
        training = self.users.collective - self.users.held_out
        if self.cohort > training:
            besides = f" without users.held_out={self.users.held_out}" if self.users.held_out else ""
            raise ValueError(f"cohort={self.cohort} is more than users.collective={self.users.collective}{besides}")
        if self.privacy.kind != "none" and self.robust.rule != "none":
            raise ValueError(f"robust.rule='{self.robust.rule}': with privacy.kind the updates are clipped and summed")
        if self.secure.aggregation:
            self._check_secure()
        if self.keep == "best" and not self.users.held_out:
            raise ValueError("keep='best' needs users.held_out, the collective users who judge")
        if self.keep == "best" and self.wire.copy_as != "fp32":
            raise ValueError("keep='best' serves the tensors that were judged, which needs wire.copy_as='fp32'")
        if self.keep == "best" and self.start_from:
            raise ValueError("keep='best' chooses a round of stage 1, which start_from skips")
        return self

    def _check_secure(self) -> None:
        """Refuse a threshold that the cohort does not allow, and what needs single updates on the server."""
        self.secure.check_cohort(self.cohort, self.devices.over_selection)
        for key, clash, why in (
            ("robust.rule", self.robust.rule != "none", "the server sees no single update to judge"),
            ("wire.up", self.wire.up != "raw", "masked numbers are written with secure.bytes"),
            ("privacy.kind", self.privacy.kind == "central", "the server cannot clip what it does not see; use local"),
        ):
            if clash:
                raise ValueError(f"{key}: with secure.aggregation {why}")

    @property
    def clients_at_once(self) -> int | None:
        """How many simulated clients run at once; None on an existing Ray cluster, whose size is not known here."""
        if self.engine != "ray":
            return 1
        return None if self.ray.address else self.partitions.clients_at_once

    def method_values(self) -> dict[str, Any]:
        """Return the values that a method's constructor may take by name; nested keys are joined by `_`."""
        return {
            "sites": self.sites,
            "private_sites": self.private_sites or self.sites,
            "positions": self.positions,
            "rank_shared": self.rank.shared,
            "rank_private": self.rank.private,
            "joint_private_init": self.joint_private_init,
            "aggregation": self.aggregation,
            "rounds": self.rounds,
            "seed": self.seed,
        }
