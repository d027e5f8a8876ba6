"""What a completed run says of a method's costs: bytes by kind, the server's seconds and memory, clients' steps."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from configs.errors import InputError
from configs.schema import RunConfig
from fl_server.record.folder import RunFolder
from strategies.wire import TRAINING, Phase


@dataclass(frozen=True)
class MeasuredRun:
    """Stage 1 of one run: means per round and client."""

    cohort: float
    users: int
    up_elements: float
    """Numbers in a client's message to the server that are sent as they are."""
    up_coded: float
    """Bytes of that message's numbers that a codec wrote."""
    up_rest: float
    """Bytes of that message besides its numbers."""
    down_elements: float
    down_coded: float
    """Bytes of what a codec wrote in a message to a client, if it is as long for everybody."""
    down_rest: float
    change_bytes: float
    """Bytes of one round's coded change; a client gets those that it lacks (`fl_server.coding`). 0: no such changes."""
    copy_bytes: float
    """Bytes of the copy that it gets where its changes are longer."""
    changes_from: int
    """The version that every client knows: 0, or 1 if the first round's tensors follow from the seed."""
    opening_elements: float
    """Numbers in a user's messages before the first round, both ways."""
    opening_rest: float
    """Bytes of those messages besides, with what a codec wrote."""
    server_s: list[float]
    """The server's seconds in each round, for checking and averaging; empty if not recorded."""
    server_rss_bytes: float | None
    steps: float
    """Optimiser steps of a client in a round."""


def measure(folder: Path) -> MeasuredRun:
    """Measure a completed run.

    Raises:
        InputError: The run did not complete, or has no stage 1.
    """
    files = RunFolder(folder)
    record = files.record
    if record.status != "completed":
        raise InputError(f"{folder}: this run did not complete ({record.status})")
    ledger = files.ledger().to_pandas()
    training = [str(phase) for phase in TRAINING]
    train = ledger[ledger.phase.isin(training) & (ledger["round"] > 0)]
    if train.empty:
        raise InputError(f"{folder}: {record.method} sends nothing in stage 1, so there is nothing to project")
    rounds = files.rounds(["round", "cohort", "server_s", "server_rss_bytes"]).to_pandas()
    rounds = rounds[rounds["round"] > 0]
    per_message: dict[str, float] = {}
    for direction, sent in train.groupby("direction"):
        messages = int(((sent.phase == str(Phase.TRAIN)) & (sent.message_bytes > 0)).sum())
        plain = _convertible(sent)
        alike = ~plain & ~sent.group.isin(("change", "copy")) if direction == "down" else ~plain
        per_message[f"{direction}_elements"] = sent[plain].elements.sum() / messages
        per_message[f"{direction}_coded"] = sent[alike].payload_bytes.sum() / messages
        per_message[f"{direction}_rest"] = (sent.message_bytes.sum() - sent.payload_bytes.sum()) / messages
    opening = ledger[(ledger.phase == "train") & (ledger["round"] == 0)]
    opening_raw = opening[_convertible(opening)]
    clients = files.clients(["round", "phase", "steps"]).to_pandas()
    steps = clients[(clients.phase == "train") & (clients["round"] > 0)].steps
    return MeasuredRun(
        cohort=float(rounds.cohort.mean()),
        users=record.users.collective,
        **per_message,
        **_change_sizes(train, files.config),
        changes_from=1 - int((_changes(train)["round"] == 1).any()),
        opening_elements=float(opening_raw.elements.sum()) / record.users.collective,
        opening_rest=float(opening.message_bytes.sum() - opening_raw.payload_bytes.sum()) / record.users.collective,
        server_s=rounds.server_s.dropna().tolist(),
        server_rss_bytes=None if rounds.server_rss_bytes.isna().all() else float(rounds.server_rss_bytes.max()),
        steps=float(steps.mean()),
    )


def _change_sizes(train: pd.DataFrame, config: RunConfig) -> dict[str, float]:
    """Return the bytes of a coded change and of a copy; if no client got a copy, of one in fp32, the longest."""
    sent = _changes(train)
    changes, copies = (sent[(sent.group == group) & (sent.elements > 0)] for group in ("change", "copy"))
    # A client that lacks several gets as many arrays, of which only the last counts its numbers.
    change = float(changes.payload_bytes.min()) if len(changes) else 0.0
    alike = config.wire.copy_as == config.wire.down
    copy = change if alike else 4.0 * float(changes.elements.max()) if len(changes) else 0.0
    if len(copies):
        copy = float(copies.payload_bytes.mean())
    return {"change_bytes": change or copy, "copy_bytes": copy}


def _changes(train: pd.DataFrame) -> pd.DataFrame:
    return train[(train.direction == "down") & train.group.isin(("change", "copy"))]


def _convertible(sent: pd.DataFrame) -> pd.Series:
    """Tell which rows of a ledger have numbers that could be sent in another format: no integers, codes or masks."""
    return (sent.codec == "raw") & (sent.dtype.isna() | sent.dtype.isin(["", "float32"]))


def setting_of(folder: Path) -> str:
    """Return the settings that decide what is sent and trained; runs that agree in them are fitted together."""
    config = RunFolder(folder).config.model_dump(mode="json")
    keys = (
        "method",
        "backbone",
        "sites",
        "private_sites",
        "positions",
        "rank",
        "joint_private_init",
        "settings",
        "local",
        "wire",
        "server",
        "secure",
        "privacy",
    )
    return json.dumps({key: config[key] for key in keys}, sort_keys=True)
