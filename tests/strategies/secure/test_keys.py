"""What two users agree on, what others can read, and how many shares restore a secret."""

import pytest

from strategies.secure.keys import agree, is_valid, join, new_key_pair, new_secret, seal, split, unseal


def test_both_sides_agree_and_purposes_differ() -> None:
    one, other = new_key_pair(), new_key_pair()
    shared = agree(one.private, other.public, "mask")
    assert shared == agree(other.private, one.public, "mask")
    assert shared != agree(one.private, other.public, "share")
    assert shared != agree(new_key_pair().private, other.public, "mask")


def test_a_point_of_low_order_is_no_key() -> None:
    assert is_valid(new_key_pair().public)
    for point in (bytes(32), bytes([1, *[0] * 31]), b"short"):
        assert not is_valid(point)


def test_only_the_receiver_reads_and_nothing_can_be_changed() -> None:
    key = new_secret()
    sealed = seal(key, b"two shares", "user 2 by user 1 in round 3")
    assert unseal(key, sealed, "user 2 by user 1 in round 3") == b"two shares"
    assert len(sealed) == 12 + len(b"two shares") + 16
    for wrong_key, text, context in (
        (new_secret(), sealed, "user 2 by user 1 in round 3"),
        (key, sealed, "user 2 by user 1 in round 4"),
        (key, sealed[:-1] + bytes([sealed[-1] ^ 1]), "user 2 by user 1 in round 3"),
    ):
        with pytest.raises(ValueError, match="changed on the way"):
            unseal(wrong_key, text, context)


def test_as_many_shares_as_the_threshold_restore_a_secret() -> None:
    secret = new_secret()
    shares = split(secret, 3, 5)
    assert {len(share) for share in shares} == {52}
    assert join(shares[:3]) == join(shares[2:]) == join([shares[4], shares[0], shares[2]]) == secret


def test_fewer_shares_do_not() -> None:
    secret = new_secret()
    shares = split(secret, 3, 5)
    # What they combine to is noise, whose padding is almost never valid.
    with pytest.raises(ValueError, match="shares"):
        join(shares[:2])
