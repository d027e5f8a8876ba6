"""What varies in a sweep: from arguments and from a config's `[sweep]` table, checked before any run."""

from pathlib import Path

import pytest

from configs.errors import InputError
from configs.load import CONFIGS, load_config
from simulations.experiments.sweep.spec import SweepSpec, read_axes, slugs


def test_arguments_with_several_values_vary_and_the_others_are_fixed() -> None:
    axes, fixed = read_axes(["rank.shared=1,4", "rounds=2", "sites=[1,2],[3]", "task=movie_tagging"], None)
    assert axes == {"rank.shared": ["1", "4"], "sites": ["[1,2]", "[3]"]}
    assert fixed == ["rounds=2", "task=movie_tagging"]


def test_commas_in_quotes_do_not_separate() -> None:
    axes, fixed = read_axes(["""users.source='a, b',"c,d\"""", "settings.x={a = 1, b = 2}"], None)
    assert axes == {"users.source": ["'a, b'", '"c,d"']}
    assert fixed == ["settings.x={a = 1, b = 2}"]


def test_a_configs_table_adds_keys_and_arguments_replace_them(tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('rounds = 2\n[sweep]\n"rank.shared" = [1, 4]\nsites = [[1], [2, 3]]\nbackbone = ["tiny", "x y"]\n')
    axes, fixed = read_axes(["rank.shared=2,8", "backbone=tiny"], file)
    assert axes == {"rank.shared": ["2", "8"], "sites": ["[1]", "[2,3]"]}
    assert fixed == ["backbone=tiny"]
    assert load_config(file).rounds == 2


def test_points_are_every_combination_the_last_key_first() -> None:
    found = SweepSpec({"rounds": ["1", "2"], "cohort": ["3", "4"]}, ["perfit"], [0]).points()
    assert [tuple(point.values()) for point in found] == [("1", "3"), ("1", "4"), ("2", "3"), ("2", "4")]


def test_a_point_names_a_folder() -> None:
    assert slugs([{"rank.shared": "4", "sites": "[14,15]"}]) == ["rank.shared-4-sites-14.15"]
    assert slugs([{"users.source": "../a/b"}]) == ["users.source-a.b"]


def test_points_that_would_share_a_folder_have_one_each() -> None:
    half, five, one = slugs([{"local.clip": ".5"}, {"local.clip": "5"}, {"local.clip": "1"}])
    assert [name[:13] for name in (half, five)] == ["local.clip-5-", "local.clip-5-"]
    assert half != five
    assert one == "local.clip-1"
    assert slugs([{"local.clip": "5"}, {"local.clip": ".5"}]) == [five, half]


@pytest.mark.parametrize(
    ("axes", "methods", "message"),
    [
        ({}, 1, "expected at least one key with several values"),
        ({"rank": ["1", "2"]}, 1, r"rank: this is a group of keys \(rank.shared, rank.private\); vary one of them"),
        ({"rnk.shared": ["1", "2"]}, 1, r"unknown key 'rnk.shared'; did you mean 'rank.shared'"),
        ({"method": ["a", "b"]}, 1, "method: a sweep takes --methods"),
        ({"seed": ["0", "1"]}, 1, "seed: a sweep takes --seeds"),
        ({"rounds": ["1", "1"]}, 1, "rounds: 1 is given twice"),
        ({"rounds": [str(n) for n in range(101)]}, 2, "202 runs: give --yes if that is meant"),
    ],
)
def test_mistakes_are_named(axes: dict[str, list[str]], methods: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SweepSpec(axes, ["perfit", "oppu"][:methods], [0]).points()


def test_a_large_grid_runs_if_it_is_meant() -> None:
    axes = {"rounds": [str(n) for n in range(1, 202)]}
    assert len(SweepSpec(axes, ["perfit"], [0], yes=True).points()) == 201


@pytest.mark.parametrize(
    ("text", "message"),
    [("sweep = 3", r"\[sweep\]: expected a table"), ("[sweep]\nrounds = [1]", "rounds: expected at least two values")],
)
def test_a_malformed_table_names_its_file(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=rf"s\.toml: {message}" if "table" in message else message):
        read_axes([], file)


@pytest.mark.parametrize("file", sorted((CONFIGS / "experiments" / "paper").glob("*.toml")), ids=lambda file: file.stem)
def test_the_papers_sweeps_are_valid(file: Path) -> None:
    axes, _ = read_axes([], file)
    for point in SweepSpec(axes, ["perfit"], [0]).points():
        load_config(file, [f"{key}={value}" for key, value in point.items()])
