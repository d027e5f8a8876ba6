"""Chooses the users of a run: who is a collective user, who a target user, who neither.

Partitions 0 … collective−1 are the collective users; the target users follow.
"""

from dataclasses import dataclass

import numpy as np

from configs.errors import InputError, TooFewUsers, nearest
from configs.schema import RunConfig
from configs.seeds import derive_seed
from configs.users import UsersConfig
from fl_clients.lamp.clusters import clusters
from fl_clients.lamp.readers import Source


@dataclass(frozen=True)
class _Candidate:
    user_id: str
    history: int
    collective: bool
    """Can train in stage 1."""
    target: bool
    """Can be personalised and evaluated."""


def choose(source: Source, config: RunConfig) -> dict[str, list[int]]:
    """Map the ids of a run's users to their partitions.

    The target users do not depend on the number of collective users, and a run with 10 collective users has the first
    10 of a run with 100 (not of synthetic users with `users.select=apart`). The users that `users.reserved` leaves out
    are the first targets of a config without it.

    Args:
        source: Where the users come from.
        config: The run's config.

    Returns:
        The partitions of every chosen user; with `users.overlap` a user may have two.

    Raises:
        InputError: A listed user is missing or cannot have its role.
        TooFewUsers: The source has too few users.
    """
    candidates = [
        _Candidate(
            user.user_id,
            len(user.history),
            user.pool != "target" and bool(user.history or user.queries),
            user.pool != "collective" and bool(user.queries),
        )
        for user in source.users()
    ]
    wanted, where = config.users, ""
    if wanted.select == "listed":
        collective, targets = _listed(candidates, wanted, source)
    else:
        collective, targets, where = _drawn(candidates, source, config)
    for key, have, want, outside in (
        ("users.target", len(targets), wanted.target, ""),
        ("users.collective", len(collective), wanted.collective, where),
    ):
        if have < want:
            reserved = f", besides users.reserved={wanted.reserved}" if wanted.reserved else ""
            of = f" of {len(candidates)} users" if have < len(candidates) else ""
            raise TooFewUsers(key, f"{key}={want}: {source.path} has only {have} such users{of}{outside}{reserved}")
    roles: dict[str, list[int]] = {}
    for partition, user_id in enumerate(collective + targets):
        roles.setdefault(user_id, []).append(partition)
    return roles


def _drawn(candidates: list[_Candidate], source: Source, config: RunConfig) -> tuple[list[str], list[str], str]:
    """Return the collective and the target users, at most as many as asked for, and what limits the former in words."""
    wanted, where = config.users, ""
    # Synthetic users are exchangeable, and only as many exist as are requested: shuffling would select different
    # users for every number of them.
    generator = np.random.default_rng(derive_seed(config.seed, "users")) if wanted.source != "synthetic" else None
    shuffled = _shuffled([user for user in candidates if user.target], generator)
    if wanted.select == "paper":
        # The sort is stable, so equally long histories stay in the seed's order.
        shuffled.sort(key=lambda user: -user.history)
    alike: set[str] = set()
    if wanted.select == "apart":
        shuffled, alike = _most_unusual(shuffled, source, config)
    first = [user.user_id for user in shuffled[: wanted.reserved + wanted.target]]
    targets = first[wanted.reserved :]
    excluded = alike | (set(first[: wanted.reserved]) if wanted.overlap else set(first))
    order = _shuffled([user for user in candidates if user.collective], generator)
    collective = [user.user_id for user in order if user.user_id not in excluded]
    # A target that is also a collective user trains on its history only.
    untrainable = {user.user_id for user in candidates if not user.history} & set(targets)
    collective = [user_id for user_id in collective if user_id not in untrainable]
    if wanted.group:
        where = f" in users.group={wanted.group}, of {len(collective)} for all groups"
    if alike:
        where += f" outside the clusters of users.target={wanted.target} (users.select=apart)"
    return collective[wanted.group * wanted.collective :][: wanted.collective], targets, where


def _shuffled(users: list[_Candidate], generator: np.random.Generator | None) -> list[_Candidate]:
    return [users[i] for i in generator.permutation(len(users))] if generator else users


def _most_unusual(shuffled: list[_Candidate], source: Source, config: RunConfig) -> tuple[list[_Candidate], set[str]]:
    """Return the target users cluster by cluster, and the ids of all users in their clusters."""
    answers = {user.user_id: [pair.target for pair in user.history] for user in source.users()}
    ids, places = list(answers), {user.user_id: place for place, user in enumerate(shuffled)}
    needed = config.users.reserved + config.users.target
    targets: list[_Candidate] = []
    alike: set[str] = set()
    for members in clusters(list(answers.values()), derive_seed(config.seed, "users", "clusters")):
        if len(targets) >= needed:
            break
        cluster = {ids[member] for member in members}
        if available := sorted(places[user] for user in cluster if user in places):
            alike |= cluster
            targets += [shuffled[place] for place in available]
    return targets, alike


def _listed(candidates: list[_Candidate], wanted: UsersConfig, source: Source) -> tuple[list[str], list[str]]:
    by_id = {user.user_id: user for user in candidates}
    for key, ids in (("users.collective_ids", wanted.collective_ids), ("users.target_ids", wanted.target_ids)):
        for user_id in ids:
            if user_id not in by_id:
                raise InputError(f"{key}: {source.path} has no user {user_id!r}{nearest(user_id, list(by_id))}")
    for user_id in wanted.collective_ids:
        if not by_id[user_id].collective:
            raise InputError(f"users.collective_ids: user {user_id!r} has no training data, or is only a target user")
    for user_id in wanted.target_ids:
        if not by_id[user_id].target:
            raise InputError(f"users.target_ids: user {user_id!r} has no question, or is only a collective user")
    return wanted.collective_ids[: wanted.collective], wanted.target_ids[: wanted.target]
