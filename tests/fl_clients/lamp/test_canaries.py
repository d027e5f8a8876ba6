"""Canaries: planted on request only, once, 4 or 16 times, and drawn as the candidates are."""

import numpy as np
import pytest

from configs.errors import InputError
from fl_clients.lamp.canaries import CANDIDATES, canary_of, candidates, is_canary, repeats_of
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user_table import open_user
from tests.conftest import tiny_config


def test_a_canary_follows_its_users_history() -> None:
    plain = build_table(tiny_config())
    planted = build_table(tiny_config("users.canaries=true", "users.collective_history=3"))
    task = find_task("movie_tagging")
    for partition in range(9):
        repeats = repeats_of(partition, partition < 6, 0)
        before, after = open_user(plain.folder, partition), open_user(planted.folder, partition)
        kept = [pair for pair in after.history if not is_canary(pair)]
        assert kept == (before.history[:3] if partition < 6 else before.history)
        assert after.history[len(kept) :] == [canary_of(partition, task, 0)] * repeats
        assert after.queries == before.queries
        assert not any(map(is_canary, before.history + before.queries))


def test_canaries_do_not_make_a_history_longer_than_it_is() -> None:
    with pytest.raises(InputError, match=r"users\.collective_history=20: no collective user has more than 8 items"):
        build_table(tiny_config("users.canaries=true", "users.collective_history=20"))


def test_every_target_user_has_a_canary_and_a_coin_decides_for_the_others() -> None:
    assert [repeats_of(partition, False, 0) for partition in range(6)] == [1, 4, 16, 1, 4, 16]
    found = [repeats_of(partition, True, 0) for partition in range(3000)]
    assert 0.47 < np.mean(np.array(found) == 0) < 0.53
    assert {number for number in found[1::3] if number} == {4}
    assert found != [repeats_of(partition, True, 1) for partition in range(3000)]


@pytest.mark.parametrize("task", ["movie_tagging", "product_rating", "tweet_paraphrase"])
def test_a_canary_is_drawn_as_the_candidates_are(task: str) -> None:
    found = find_task(task)
    others, own = candidates(found, 0), canary_of(0, found, 0)
    assert len({pair.source for pair in others} | {own.source}) == CANDIDATES + 1
    assert len(own.source.split()) == len(others[0].source.split())
    if found.labels:
        assert {pair.target for pair in others} == {own.target}
        assert own.target in found.labels
    else:
        assert len({pair.target for pair in others} | {own.target}) == CANDIDATES + 1
    assert not any(map(is_canary, others))
    assert canary_of(0, found, 0) == own != canary_of(0, found, 1)
