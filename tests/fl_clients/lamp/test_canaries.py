"""Canaries: planted on request only, once, 4 or 16 times, and like items that nobody has."""

import pytest

from fl_clients.lamp.canaries import CANDIDATES, canary_of, candidates, is_canary
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user_table import open_user
from tests.conftest import tiny_config


def test_every_user_has_its_own_canary_after_its_history() -> None:
    plain = build_table(tiny_config())
    planted = build_table(tiny_config("users.canaries=true", "users.collective_history=3"))
    task = find_task("movie_tagging")
    for partition, repeats in enumerate((1, 4, 16, 1, 4, 16, 1, 4, 16)):
        before, after = open_user(plain.folder, partition), open_user(planted.folder, partition)
        kept = [pair for pair in after.history if not is_canary(pair)]
        assert kept == (before.history[:3] if partition < 6 else before.history)
        assert after.history[len(kept) :] == [canary_of(partition, task, 0)] * repeats
        assert after.queries == before.queries
        assert not any(map(is_canary, before.history + before.queries))


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
