"""What a client refuses to do for a server that asks for more than a sum."""

from pathlib import Path

import numpy as np
import pytest

from configs.secure import SecureConfig
from fl_clients.process.paths import ClientPaths
from fl_clients.secure import SecureClient

CONFIG = SecureConfig(aggregation=True)
USERS = range(4)


def client(folder: Path, user: int, number: int = 1) -> SecureClient:
    (folder / str(user)).mkdir(exist_ok=True)
    return SecureClient(ClientPaths(folder / str(user), folder, user), CONFIG, number)


@pytest.fixture
def masked(tmp_path: Path) -> Path:
    """A round in which all four users have sent a masked update."""
    keys: dict[int, bytes] = {}
    for user in USERS:
        keys |= client(tmp_path, user).advertise()
    shares = {user: client(tmp_path, user).share(keys) for user in USERS}
    for user in USERS:
        sealed = {sender: found[user] for sender, found in shares.items() if sender != user}
        client(tmp_path, user).mask(np.zeros(3), sealed, seed=user)
    return tmp_path


def test_one_of_a_users_two_secrets_is_revealed(masked: Path) -> None:
    found = client(masked, 0).reveal(alive=[0, 1, 2], dropped=[3])
    assert set(found) == {0, 1, 2, 3}
    assert {len(share) for share in found.values()} == {52}


@pytest.mark.parametrize(
    ("alive", "dropped"),
    [([0, 1, 2, 3], [3]), ([0, 1], [2, 3]), ([0, 1, 2], [3, 9])],
    ids=["both secrets of a user", "fewer than the threshold", "a user of another round"],
)
def test_nothing_that_unmasks_a_single_update_is_revealed(masked: Path, alive: list[int], dropped: list[int]) -> None:
    with pytest.raises(ValueError, match="the server asks for secrets"):
        client(masked, 0).reveal(alive, dropped)


def test_a_second_request_for_other_secrets_is_refused_and_the_same_is_answered(masked: Path) -> None:
    first = client(masked, 0).reveal([0, 1, 2, 3], [])
    assert client(masked, 0).reveal([0, 1, 2, 3], []) == first
    with pytest.raises(ValueError, match="asks a second time"):
        client(masked, 0).reveal([0, 1, 2], [3])


def test_keys_that_the_server_replaced_are_refused(tmp_path: Path) -> None:
    keys: dict[int, bytes] = {}
    for user in USERS:
        keys |= client(tmp_path, user).advertise()
    with pytest.raises(ValueError, match="other keys than this client's"):
        client(tmp_path, 0).share(keys | {0: bytes(64)})
    with pytest.raises(ValueError, match="different ones are needed"):
        client(tmp_path, 0).share(keys | {1: keys[2]})
    # With two users, one would know the other's update from the sum.
    with pytest.raises(ValueError, match="1 users began the round"):
        client(tmp_path, 0).share({0: keys[0]})


def test_a_round_without_keys_is_refused(masked: Path) -> None:
    with pytest.raises(ValueError, match="round 2: this client has drawn no keys"):
        client(masked, 0, number=2).reveal([0, 1, 2], [3])


def test_shares_that_were_changed_are_refused(tmp_path: Path) -> None:
    keys: dict[int, bytes] = {}
    for user in USERS:
        keys |= client(tmp_path, user).advertise()
    shares = {user: client(tmp_path, user).share(keys) for user in USERS}
    sealed = {sender: found[0] for sender, found in shares.items() if sender != 0}
    sealed[1], sealed[2] = sealed[2], sealed[1]
    client(tmp_path, 0).mask(np.zeros(3), sealed, seed=0)
    with pytest.raises(ValueError, match="changed on the way"):
        client(tmp_path, 0).reveal([0, 1, 2, 3], [])


def test_secrets_are_the_owners_only(masked: Path) -> None:
    kept = masked / "0" / ".secure" / "0.json"
    assert kept.stat().st_mode & 0o077 == 0
    assert kept.parent.stat().st_mode & 0o077 == 0
