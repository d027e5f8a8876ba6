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


def test_a_repeated_round_does_not_open_the_sum_of_other_users(masked: Path) -> None:
    client(masked, 0).reveal([0, 1, 2], [3])
    # The server resumes and begins the round anew: now everybody answers, so the difference would be user 3's update.
    keys: dict[int, bytes] = {}
    for user in USERS:
        keys |= client(masked, user).advertise()
    shares = {user: client(masked, user).share(keys) for user in USERS}
    sealed = {sender: found[0] for sender, found in shares.items() if sender != 0}
    client(masked, 0).mask(np.zeros(3), sealed, seed=0)
    with pytest.raises(ValueError, match="asks a second time"):
        client(masked, 0).reveal([0, 1, 2, 3], [])
    assert set(client(masked, 0).reveal([0, 1, 2], [3])) == {0, 1, 2, 3}


def test_one_update_is_masked_with_one_set_of_keys(tmp_path: Path) -> None:
    keys: dict[int, bytes] = {}
    for user in USERS:
        keys |= client(tmp_path, user).advertise()
    shares = {user: client(tmp_path, user).share(keys) for user in USERS}
    assert client(tmp_path, 0).share(keys) == shares[0]
    with pytest.raises(ValueError, match="other keys than before"):
        client(tmp_path, 0).share(keys | {3: client(tmp_path, 3).advertise()[3]})
    sealed = {sender: found[0] for sender, found in shares.items() if sender != 0}
    first, _ = client(tmp_path, 0).mask(np.zeros(3), sealed, seed=0)
    again, _ = client(tmp_path, 0).mask(np.zeros(3), sealed, seed=0)
    assert first.tolist() == again.tolist()
    # Without one sender, the difference of two answers would be the mask with that user.
    fewer = {sender: value for sender, value in sealed.items() if sender != 3}
    for values, senders in ((np.zeros(3), fewer), (np.ones(3), sealed)):
        with pytest.raises(ValueError, match="another update was masked with these keys"):
            client(tmp_path, 0).mask(values, senders, seed=0)


def test_a_threshold_of_half_of_the_users_is_refused(tmp_path: Path) -> None:
    config = SecureConfig(aggregation=True, threshold=3)
    keys = {user: bytes([user]) * 64 for user in range(1, 6)}
    (tmp_path / "0").mkdir()
    own = SecureClient(ClientPaths(tmp_path / "0", tmp_path, 0), config, 1)
    with pytest.raises(ValueError, match="threshold=3 is not more than half of the 6 users"):
        own.share(keys | own.advertise())


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


def test_shares_that_were_changed_are_left_out(tmp_path: Path) -> None:
    keys: dict[int, bytes] = {}
    for user in USERS:
        keys |= client(tmp_path, user).advertise()
    shares = {user: client(tmp_path, user).share(keys) for user in USERS}
    sealed = {sender: found[0] for sender, found in shares.items() if sender != 0}
    sealed[1], sealed[2] = sealed[2], sealed[1]
    client(tmp_path, 0).mask(np.zeros(3), sealed, seed=0)
    assert client(tmp_path, 0).reveal([0, 1, 2, 3], []).keys() == {0, 3}


def test_secrets_are_the_owners_only(masked: Path) -> None:
    kept = masked / "0" / ".secure" / "0.json"
    assert kept.stat().st_mode & 0o077 == 0
    assert kept.parent.stat().st_mode & 0o077 == 0
