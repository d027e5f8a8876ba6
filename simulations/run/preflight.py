"""Preparation of a run: builds and checks its method, and resolves its config."""

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from configs.errors import InputError, nearest
from configs.load import flatten
from configs.paths import expand
from configs.schema import RunConfig
from fl_clients.backbone.activation_store import activation_folder
from fl_clients.backbone.builtin import BUILT_IN, EMBEDDERS
from fl_clients.backbone.embedder import COMPUTED
from fl_clients.backbone.load import read_shape, resolve_precision
from fl_clients.lamp.tasks import find_task
from fl_server.privacy import RunPrivacy
from fl_server.record.schema import RunRecord
from strategies.aggregation.robust import POOLING
from strategies.codecs import find_codec
from strategies.loading import load_method
from strategies.method import BackboneShape, Method, Tensors, travelling
from strategies.secure.ring import Ring
from strategies.spacing import read_sites

_SHORTEST_QUESTION = 16
"""Tokens that a question must have room for."""


def with_sites(config: RunConfig, shape: BackboneShape) -> RunConfig:
    """Return a config whose sites are lists of the backbone's blocks.

    Raises:
        InputError: A spacing cannot be read, or gives no site.
    """
    keys = [key for key in ("sites", "private_sites") if getattr(config, key)]
    try:
        return config.model_copy(update={key: read_sites(getattr(config, key), shape.blocks) for key in keys})
    except ValueError as error:
        raise InputError(str(error)) from None


def build_method(config: RunConfig, shape: BackboneShape, import_path: Sequence[str] = ()) -> Method:
    """Build a config's method and check it against the backbone.

    Args:
        config: The run's config.
        shape: The backbone's shape.
        import_path: Folders to import methods from, besides the installed packages.

    Raises:
        InputError: The task is unknown, the method cannot be loaded, or a setting does not fit.
    """
    task = find_task(config.task)
    needed = task.max_new_tokens + _SHORTEST_QUESTION
    if not task.labels and config.personal.max_tokens < needed:
        raise InputError(
            f"personal.max_tokens={config.personal.max_tokens}: expected at least {needed}, since an answer of "
            f"{task.name} has up to {task.max_new_tokens} tokens"
        )
    config = with_sites(config, shape)
    try:
        method = load_method(config.method, config.method_values(), config.settings, import_path)
        method.check(shape)
        known = [*COMPUTED, *EMBEDDERS]
        if method.embedder not in known:
            hint = nearest(method.embedder, known)
            raise ValueError(f"settings.embedder='{method.embedder}': expected one of {', '.join(known)}{hint}")
        for key, limit in (
            ("local.max_tokens", config.local.max_tokens),
            ("personal.max_tokens", config.personal.max_tokens),
        ):
            if shape.positions and limit > shape.positions:
                raise ValueError(f"{key}={limit}: the backbone {config.backbone} has {shape.positions} positions only")
        if config.users.canaries and (method.first_round is None or config.start_from):
            raise ValueError("users.canaries: `fedperfit audit` needs a run with a stage 1 of its own")
        _check_exchange(config, method, shape)
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from None
    return method


def exchange_keys(config: RunConfig) -> dict[str, Any]:
    """Return the values of `wire.*`, `server.*`, `privacy.*` and `secure.*` by dotted key."""
    groups = ("wire.", "server.", "privacy.", "secure.")
    return {key: value for key, value in flatten(config).items() if key.startswith(groups)}


def _check_exchange(config: RunConfig, method: Method, shape: BackboneShape) -> None:
    """Refuse codecs that do not exist, and what needs one shared state from methods that keep clients apart."""
    rounds = method.first_round is not None
    pooling = config.robust.rule in POOLING and rounds
    if pooling and method.server_aggregator(method.server_init(shape), 1).per_user:
        raise ValueError(f"robust.rule='{config.robust.rule}': {method.name} keeps clients' updates separate")
    if method.introduces and config.robust.rule != "none":
        raise ValueError(f"robust.rule='{config.robust.rule}': {method.name}'s clients have no common start")
    if config.users.held_out and type(method).server_controls is not Method.server_controls:
        raise ValueError(
            f"users.held_out={config.users.held_out}: what {method.name} serves depends on the user's profile, so no "
            "user can judge for all"
        )
    wire, pooled = config.wire, []
    for key in ("up", "down"):
        if (name := getattr(wire, key)) != "raw":
            pooled.append(f"wire.{key}='{name}'")
            try:
                find_codec(name)
            except ValueError as error:
                raise ValueError(f"wire.{key}={error}") from None
    if config.server.optimizer != "none":
        pooled.append(f"server.optimizer='{config.server.optimizer}'")
    if pooled and wire.down_of == "values" and type(method).from_wire is not Method.from_wire:
        raise ValueError(f"wire.down_of='values': {method.name} needs every number; only LoRA methods can lack some")
    if config.local.keep_moments and not method.constant_shapes:
        raise ValueError(f"local.keep_moments=true: {method.name} trains other tensors in some rounds")
    if pooled and not method.constant_shapes:
        raise ValueError(f"{pooled[0]}: {method.name} sends other tensors in some rounds")
    if rounds and (config.privacy.kind != "none" or config.secure.aggregation):
        _check_private(config, method, shape)
    if pooled and rounds:
        if keeps_clients_apart(method, shape):
            raise ValueError(
                f"{pooled[0]}: {method.name} keeps clients' updates separate, or sends each something else"
            )
        _check_wire_form(method, travelling(method.server_init(shape)))


def _check_private(config: RunConfig, method: Method, shape: BackboneShape) -> None:
    """Refuse noise and masks where no mean is formed, an ε that cannot be kept, and too few bytes for a sum."""
    private = config.privacy.kind != "none"
    users = config.users.collective - config.users.held_out
    if private and config.privacy.delta >= 1 / users:
        raise ValueError(f"privacy.delta={config.privacy.delta:g}: expected less than 1/{users}, one user in all")
    key = f"privacy.kind='{config.privacy.kind}'" if private else "secure.aggregation"
    state = method.server_init(shape)
    first = 0 if method.first_round == 0 else 1
    if any(method.server_aggregator(state, number).per_user for number in {first, 1}):
        raise ValueError(f"{key}: {method.name} needs each client's own tensors, not only their mean")
    if config.secure.aggregation:
        threshold = config.secure.threshold
        if first == 0 and threshold is not None and 2 * threshold <= users:
            raise ValueError(f"secure.threshold={threshold}: {method.name} opens with all {users} users; leave it out")
        begin = math.ceil(config.cohort * (1 + config.devices.over_selection))
        _ = Ring(config.secure.bytes, config.secure.limit, min(begin, users) if first else users).steps
    if private:
        check_promise(config, method)


def check_promise(config: RunConfig, method: Method, devices: bool = False) -> None:
    """Refuse an ε that cannot be kept.

    Args:
        config: The run's config, with `privacy.kind`.
        method: The method.
        devices: Clients are real devices, which know whom the seed draws.

    Raises:
        InputError: The target ε cannot be kept.
    """
    users = config.users.collective - config.users.held_out
    last = config.rounds if method.last_round is None else method.last_round
    RunPrivacy(config, method, users, range(last + 1), secret=1 if devices else None)


def _check_wire_form(method: Method, shared: Tensors) -> None:
    """Refuse a method whose `from_wire` does not undo its `to_wire`: its clients would be blamed for it."""
    back = method.from_wire(method.to_wire(shared))
    for name in sorted({*shared, *back}):
        ours, theirs = shared.get(name), back.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=1e-4):
            raise ValueError(f"{method.name}.from_wire does not undo to_wire: tensor '{name}' does not come back")


def keeps_clients_apart(method: Method, shape: BackboneShape) -> bool:
    """Tell whether a method has no one shared state: it sends every client something else, or does not average."""
    kind, alike = type(method), method.sends_alike
    if alike is None:
        alike = kind.server_send is Method.server_send and kind.server_controls is Method.server_controls
    return not alike or method.server_aggregator(method.server_init(shape), 1).per_user


def method_digest(method: Method) -> dict[str, str]:
    """Return the SHA-256 digest of a user-defined method's file, by file name; empty for fedperfit's methods."""
    module = type(method).__module__
    file = getattr(sys.modules[module], "__file__", None)  # a notebook has none
    if module.startswith("strategies.") or file is None:
        return {}
    return {Path(file).name: hashlib.sha256(Path(file).read_bytes()).hexdigest()}


def find_changed_method(code: Mapping[str, str], record: RunRecord) -> str | None:
    """Return which user-defined method file (`method_digest`) has changed since a record's run began, or None."""
    changed = [file for file, digest in code.items() if record.versions.get(file) != digest]
    return f"{changed[0]} has changed since" if changed else None


def _as_recorded(path: str) -> str:
    """Return a path as records store it: relative if below the current folder, so that it is valid in any checkout."""
    full, current = expand(path).resolve(), Path.cwd()
    return str(full.relative_to(current) if full.is_relative_to(current) else full)


def resolve(config: RunConfig) -> RunConfig:
    """Resolve values that depend on this machine and folder, so that clients elsewhere use the same ones."""
    backbone = expand(config.backbone)
    source = config.users.source
    users = config.users.model_copy(update={"source": source if source == "synthetic" else _as_recorded(source)})
    config = with_sites(config, read_shape(config.backbone))
    return config.model_copy(
        update={
            "start_from": _as_recorded(config.start_from) if config.start_from else "",
            "backbone": config.backbone
            if config.backbone in BUILT_IN or not backbone.is_dir()
            else str(backbone.resolve()),
            "users": users,
            "precision": resolve_precision(config.precision, config.partitions.gpus > 0),
            "activations_mb": config.activations_mb if activation_folder() else 0,
        }
    )
