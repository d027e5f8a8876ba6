"""Targets in clusters of their own: unlike every collective user."""

from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from configs.errors import InputError
from fl_clients.lamp.clusters import clusters
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.user_table import open_user
from tests.conftest import movie, tiny_config, write_lamp

TAGS = ("comedy", "comedy", "romance", "violence")
"""What users of four kinds of twelve, one after another, answer most."""


def folder_with_kinds(path: Path) -> str:
    """Twelve users; 3, 7 and 11 tag violence, the others comedy or romance."""
    records = []
    for number in range(12):
        record = movie(str(number), f"Film {number}.", history=6)
        for place, item in enumerate(record["profile"]):
            item["tag"] = TAGS[number % 4] if place < 5 else "classic"
        records.append(record)
    golds = [{"id": str(number), "output": "comedy"} for number in range(12)]
    return f"users.source={write_lamp(path, records, golds)}"


def ids(*overrides: str, collective: int = 6) -> tuple[set[str], set[str]]:
    """Return the ids of the collective and of the target users."""
    counts = [f"users.collective={collective}", "users.target=2", "cohort=2"]
    folder = build_table(tiny_config(*counts, *overrides)).folder
    users = [open_user(folder, partition).queries[0].item_id for partition in range(collective + 2)]
    return set(users[:collective]), set(users[collective:])


def test_users_who_answer_alike_are_together_and_the_most_unusual_come_first() -> None:
    answers = [["action"] * 9 + ["comedy"]] * 20 + [["romance"] * 3 + ["comedy"] * 7] * 12 + [["dystopia"]] * 4
    found = clusters(answers, 0)
    assert sorted(chain(*found)) == list(range(36))
    assert set(found[0]) <= {32, 33, 34, 35}
    kind = np.repeat([0, 1, 2], [20, 12, 4])
    assert all(len(set(kind[members])) == 1 for members in found)
    assert clusters(answers, 0) == found


def test_users_without_answers_are_clustered_too() -> None:
    assert sorted(chain(*clusters([[], ["action"], [], ["comedy"]] * 3, 0))) == list(range(12))
    assert sorted(chain(*clusters([[]] * 5, 0))) == list(range(5))


def test_no_collective_user_is_in_a_targets_cluster(tmp_path: Path) -> None:
    source = folder_with_kinds(tmp_path)
    collective, targets = ids(source, "users.select=apart")
    assert targets < {"3", "7", "11"}
    assert not collective & {"3", "7", "11"}
    assert ids(source, "users.select=apart", collective=4)[1] == targets
    # Who is left out for a search is in their clusters as well.
    _, others = ids(source, "users.select=apart", "users.reserved=1")
    assert len(others & {"3", "7", "11"}) == 2


def test_synthetic_targets_are_unlike_the_collective_users() -> None:
    def distance(select: str) -> float:
        """Between the shares of answers of both roles, in total variation."""
        words = (f"users.select={select}", "users.collective=40", "users.target=8", "cohort=4")
        folder = build_table(tiny_config(*words, "users.synthetic.history=32")).folder
        shares = []
        for partitions in (range(40), range(40, 48)):
            answers = [pair.target for partition in partitions for pair in open_user(folder, partition).history]
            shares.append(Counter({tag: count / len(answers) for tag, count in Counter(answers).items()}))
        return sum(abs(shares[0][tag] - shares[1][tag]) for tag in {*shares[0], *shares[1]}) / 2

    assert distance("apart") > 1.5 * distance("random")


def test_what_cannot_be_apart_is_refused(tmp_path: Path) -> None:
    source = folder_with_kinds(tmp_path)
    with pytest.raises(InputError, match="select='apart' keeps apart"):
        ids(source, "users.select=apart", "users.overlap=true")
    with pytest.raises(InputError, match="group and reserved need the users of a folder"):
        ids("users.select=apart", "users.reserved=2")
    outside = r"users.collective=10: .* has only \d such users of 12 users outside the clusters of users.target=2"
    with pytest.raises(InputError, match=outside):
        ids(source, "users.select=apart", collective=10)
