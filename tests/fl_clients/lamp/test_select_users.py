"""The user table: partition i is user i, nested collective users, fixed targets, private files."""

import stat
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from flwr_datasets.partitioner import NaturalIdPartitioner
from safetensors.torch import load_file

from configs.errors import InputError
from configs.load import load_config
from fl_clients.lamp.select_users import Oracle, build_table
from fl_clients.lamp.user_table import open_user
from fl_clients.private_store import write_private
from tests.conftest import movie, tiny_config, write_lamp


def first_queries(overrides: list[str], partitions: range) -> list[str]:
    table = build_table(tiny_config(*overrides))
    return [open_user(table.folder, partition).queries[0].item_id for partition in partitions]


def test_partitions_equal_the_natural_partitions_of_flower_datasets() -> None:
    table = build_table(tiny_config())
    rows = pa.ipc.open_file(table.folder / "users.arrow").read_all()
    natural = NaturalIdPartitioner(partition_by="user_id")
    natural.dataset = datasets.Dataset.from_list(rows.to_pylist())
    theirs = [natural.load_partition(number).to_list() for number in range(natural.num_partitions)]
    by_user = {part[0]["user_id"]: [(row["item_id"], row["target"]) for row in part] for part in theirs}
    assert natural.num_partitions == 9
    for partition in range(9):
        _, history, queries = open_user(table.folder, partition)
        ours = [(pair.item_id, pair.target) for pair in history + queries]
        assert ours == by_user[queries[0].item_id.partition("-")[0]]


def folder_of(count: int, path: Path) -> str:
    golds = [{"id": str(n), "output": "comedy"} for n in range(count)]
    return f"users.source={write_lamp(path, [movie(str(n), f'Film {n}.') for n in range(count)], golds)}"


def test_collective_users_are_nested_and_targets_fixed(tmp_path: Path) -> None:
    source = folder_of(30, tmp_path)
    small = first_queries([source, "users.collective=4", "cohort=4", "users.target=5"], range(9))
    large = first_queries([source, "users.collective=20", "users.target=5"], range(25))
    assert small[:4] == large[:4]
    assert small[4:] == large[20:]
    assert len(set(large)) == 25


def test_synthetic_collective_users_are_nested_and_targets_fixed() -> None:
    small = first_queries(["users.collective=4", "cohort=4", "users.target=5"], range(9))
    large = first_queries(["users.collective=20", "users.target=5"], range(25))
    assert small[:4] == large[:4]
    assert small[4:] == large[20:]


def uneven(path: Path) -> str:
    """Users "0" to "9" with that many history items and one question each."""
    records = [movie(str(n), f"Film {n}.", history=n) for n in range(10)]
    golds = [{"id": str(n), "output": "comedy"} for n in range(10)]
    return f"users.source={write_lamp(path, records, golds)}"


def chosen(*overrides: str, collective: int = 4, target: int = 3) -> tuple[list[str], list[str]]:
    """Return the ids of the collective and of the target users."""
    counts = [f"users.collective={collective}", f"users.target={target}", f"cohort={collective}"]
    queries = first_queries([*counts, *overrides], range(collective + target))
    return queries[:collective], queries[collective:]


def test_the_papers_targets_have_the_longest_histories(tmp_path: Path) -> None:
    source = uneven(tmp_path)
    collective, targets = chosen(source, "users.select=paper")
    assert targets == ["9", "8", "7"]
    assert not set(collective) & set(targets)
    more, same = chosen(source, "users.select=paper", collective=7)
    assert (more[:4], same) == (collective, targets)
    assert chosen(source, "users.select=paper", "seed=1")[0] != collective


def test_overlap_lets_targets_train_on_their_histories_but_not_on_their_questions(tmp_path: Path) -> None:
    source = uneven(tmp_path)
    with pytest.raises(InputError, match=r"users.collective=8: .* has only 7 such users"):
        chosen(source, collective=8)
    table = build_table(tiny_config(source, "users.overlap=true", "users.collective=9", "cohort=9"))
    users = pq.read_table(table.folder / "users.parquet").to_pylist()
    collective, targets = users[:9], users[9:]
    both = {user["user_id"] for user in targets} & {user["user_id"] for user in collective}
    assert len({user["user_id"] for user in collective}) == 9
    assert len(both) >= 2
    for user in collective:
        _, history, queries = open_user(table.folder, user["partition"])
        assert len(history) == int(user["user_id"])
        assert len(queries) == (0 if user["user_id"] in both else 1)
    assert all(len(open_user(table.folder, user["partition"]).queries) == 1 for user in targets)


def test_the_length_of_histories_is_limited_by_role(tmp_path: Path) -> None:
    users = [uneven(tmp_path), "users.select=paper", "users.collective=7", "users.target=3", "cohort=7"]

    def histories(*overrides: str) -> list[int]:
        table = pq.read_table(build_table(tiny_config(*users, *overrides)).folder / "users.parquet")
        return [int(items) for items in table["history"].to_pylist()]

    whole = histories()
    assert sorted(whole[:7]) == list(range(7))
    assert whole[7:] == [9, 8, 7]
    assert histories("users.collective_history=3") == [min(3, items) for items in whole[:7]] + [9, 8, 7]
    assert histories("users.target_history=8") == [*whole[:7], 8, 8, 7]
    long, short = (build_table(tiny_config(*users, *limit)).folder for limit in ([], ["users.target_history=2"]))
    assert open_user(short, 7).history == open_user(long, 7).history[:2]
    with pytest.raises(InputError, match=r"users.collective_history=7: no collective user has more than 6 items"):
        build_table(tiny_config(*users, "users.collective_history=7"))


def test_users_may_be_listed(tmp_path: Path) -> None:
    source = uneven(tmp_path)
    listed = [source, "users.select=listed", "users.collective_ids=['5','2','8']", "users.target_ids=['0','1']"]
    assert chosen(*listed, collective=3, target=2) == (["5", "2", "8"], ["0", "1"])
    assert chosen(*listed, collective=2, target=1) == (["5", "2"], ["0"])
    assert load_config(None, [*listed, "cohort=3"]).users.target == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["users.collective_ids=['1','77']"], r"users.collective_ids: .* has no user '77'"),
        (["users.collective_ids=['1','1']"], "names a user twice"),
        (["users.collective_ids=['1','4']"], "user '4' is in both lists; set overlap=true"),
        (["users.collective_ids=['1','2']", "users.select=random"], "given for select='listed', and only then"),
        (["users.collective_ids=['1']", "users.collective=3"], "collective=3 is more than the 1 users"),
    ],
)
def test_invalid_lists_of_users_are_refused(overrides: list[str], message: str, tmp_path: Path) -> None:
    all_overrides = [uneven(tmp_path), "users.select=listed", "users.target_ids=['4']", "cohort=1", *overrides]
    with pytest.raises(InputError, match=message):
        build_table(load_config(None, all_overrides))


def test_more_users_than_the_source_has_are_refused(tmp_path: Path) -> None:
    source = folder_of(8, tmp_path)
    with pytest.raises(InputError, match=r"users.collective=6: .* has only 5 such users"):
        build_table(tiny_config(source))


def test_the_same_users_give_the_same_table(tmp_path: Path) -> None:
    assert build_table(tiny_config()).sha256 == build_table(tiny_config()).sha256
    assert build_table(tiny_config()).sha256 != build_table(tiny_config("seed=1")).sha256


def test_the_oracle_follows_from_the_generative_model() -> None:
    quiet = build_table(tiny_config("users.synthetic.noise=0", "users.synthetic.deviation=0")).oracle
    assert quiet == Oracle("accuracy", personalised=1.0, collective=1.0)
    far = build_table(tiny_config("users.synthetic.noise=0", "users.target=40", "users.synthetic.deviation=3")).oracle
    assert far is not None
    assert far.personalised == 1.0
    assert 0.3 < far.collective < 0.8
    noisy = build_table(tiny_config("users.synthetic.noise=0.5", "users.target=100")).oracle
    assert noisy is not None
    assert 0.4 < noisy.personalised < 0.6


def test_private_files_are_written_atomically_and_readable_only_by_the_owner(tmp_path: Path) -> None:
    tensors = {"private_x.1.b": torch.arange(3.0)}
    write_private(tmp_path / "private", 7, tensors)
    assert torch.equal(load_file(tmp_path / "private" / "7.safetensors")["private_x.1.b"], tensors["private_x.1.b"])
    assert stat.S_IMODE((tmp_path / "private" / "7.safetensors").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "private").iterdir()] == ["7.safetensors"]
    with pytest.raises(ValueError, match="shared_x"):
        write_private(tmp_path / "private", 8, {"shared_x": torch.zeros(1)})
