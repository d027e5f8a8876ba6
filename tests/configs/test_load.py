"""Loading a config from TOML and overrides, and the errors for invalid input."""

import re
from pathlib import Path

import pytest

from configs.errors import InputError
from configs.load import CONFIGS, as_override, load_config, read_resolved, write_config
from configs.paths import make_cache


def test_overrides_take_precedence_over_the_file_and_the_file_over_presets(tmp_path: Path) -> None:
    toml = tmp_path / "own.toml"
    toml.write_text('task = "tweet_paraphrase"\nrounds = 3\n[personal]\nepochs = 9\n')
    config = load_config(toml, ["rounds=4", "users.source=some/folder", "sites=[1, 2]"])
    assert (config.rounds, config.personal.epochs, config.personal.max_tokens) == (4, 9, 160)
    assert (config.users.source, config.sites) == ("some/folder", [1, 2])
    assert config.method == "strategies.perfit:PerFit"


def test_a_written_config_reads_back_the_same(tmp_path: Path) -> None:
    config = load_config(None, ["seed=7", "settings.x=1"])
    write_config(config, tmp_path / "config.toml")
    assert read_resolved(tmp_path / "config.toml") == config


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("experiments/*.toml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_loads(path: Path) -> None:
    load_config(path)


def test_experiments_and_presets_are_shipped() -> None:
    assert len(list(CONFIGS.rglob("*.toml"))) >= 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["users.colective=3"], "unknown key 'users.colective'; did you mean 'users.collective'?"),
        (["rouns=3"], "did you mean 'rounds'?"),
        (["rounds=many"], "rounds='many'"),
        (["rounds=0"], "rounds=0"),
        (["rounds"], "key=value"),
        (["=3"], "key=value"),
        (["method=perfitt"], "unknown method 'perfitt'; did you mean 'perfit'?"),
        (["cohort=9", "users.collective=8"], "cohort=9 is more than users.collective=8"),
        (["partitions.gpus=1"], "needs per_client"),
        (["partitions.gpus=1", "partitions.per_client=2"], "more than gpus=1"),
        (["partitions.gpus=1", "partitions.per_client=5e-324"], "expected at least 0.001 of a GPU"),
        (["partitions.cpus=1000000000"], "less than or equal to 1024"),
        (["partitions.cpus=1", "partitions.cpus_per_client=2"], "more than cpus=1"),
        (["engine=slurm"], "engine='slurm'"),
        (["local.lr=-1"], "local.lr=-1"),
    ],
)
def test_invalid_overrides_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=r".*") as caught:
        load_config(None, overrides)
    assert message in str(caught.value)
    assert not str(caught.value).startswith("None")


def test_a_file_is_blamed_only_for_what_is_in_it(tmp_path: Path) -> None:
    toml = tmp_path / "mine.toml"
    toml.write_text("rounds = 3\n[wire]\nup = 'int8'\n")
    for words in (["cohort=99"], ["wire.copy_as=int4"]):
        with pytest.raises(InputError, match=r"cohort=99 is more|copy_as") as caught:
            load_config(toml, words)
        assert "mine.toml" not in str(caught.value)
    toml.write_text("cohort = 'many'")
    with pytest.raises(InputError, match=r"mine\.toml: cohort='many'"):
        load_config(toml, [])


def method_file(folder: Path, tables: str) -> str:
    path = folder / "own.toml"
    path.write_text('method = "strategies.perfit:PerFit"\npersonal.lr = 1e-2\n' + tables)
    return f"method={path}"


def test_a_methods_keys_for_one_task_override_the_task_preset(tmp_path: Path) -> None:
    method = method_file(tmp_path, "[tasks.tweet_paraphrase.personal]\nlr = 1e-3\nepochs = 5\n")
    other, tweets = load_config(None, [method]), load_config(None, [method, "task=tweet_paraphrase"])
    assert (other.personal.lr, other.personal.epochs) == (1e-2, 6)
    assert (tweets.personal.lr, tweets.personal.epochs, tweets.personal.max_tokens) == (1e-3, 5, 160)
    assert load_config(None, [method, "task=tweet_paraphrase", "personal.lr=1"]).personal.lr == 1
    paper = load_config(None, [method, "task=tweet_paraphrase", "preset=paper"])
    assert (paper.personal.lr, paper.personal.epochs) == (1e-4, 4)


def test_a_variant_has_its_presets_keys_and_its_own(tmp_path: Path) -> None:
    variant = tmp_path / "small.toml"
    variant.write_text('method = "oppu"\nlocal.lr = 2e-2\n[settings]\nrank = 1\n')
    preset, own = load_config(None, ["method=oppu"]), load_config(None, [f"method={variant}"])
    assert own.method == preset.method
    assert own.settings == preset.settings | {"rank": 1}
    assert (own.local.lr, own.personal.lr) == (2e-2, preset.personal.lr)
    variant.write_text('method = "opu"\n')
    with pytest.raises(InputError, match='expected it to set method = "module:Class", or a preset such as "perfit"'):
        load_config(None, [f"method={variant}"])


@pytest.mark.parametrize(("method", "epochs"), [("perfit", 6), ("reft-c", 6), ("oppu", 2), ("lora-p", 2)])
def test_methods_with_lora_have_the_papers_two_personal_epochs(method: str, epochs: int) -> None:
    # Table 9 has the epochs of PerFit and ReFT; appendix D.5 those of the others.
    config = load_config(None, [f"method={method}", "task=news_categorization", "preset=paper"])
    assert (config.personal.epochs, config.personal.lr, config.personal.batch_size) == (epochs, 1e-4, 16)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            "[tasks.tweet_parafrase]\nseed = 1",
            "[tasks.tweet_parafrase]: unknown task; did you mean 'tweet_paraphrase'?",
        ),
        ("[tasks]\nmovie_tagging = 3", "tasks={'movie_tagging': 3}: expected tables"),
        ("tasks = 3", "tasks=3: expected tables of keys"),
        ("paper = 3", "paper=3: expected a table of keys"),
        ("[tasks.movie_tagging]\npaper = 3", "paper=3: expected a table of keys"),
        ("[tasks.movie_tagging.personal]\nlearning = 1", "unknown key 'personal.learning'"),
    ],
)
def test_invalid_task_tables_are_named(tmp_path: Path, tables: str, message: str) -> None:
    with pytest.raises(InputError, match=r".*") as caught:
        load_config(None, [method_file(tmp_path, tables)])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ('task = "product_rating"', "task"),
        ('preset = "paper"', "preset"),
        ("[devices]\npreset = 'silos'", "devices.preset"),
        ('[tasks.movie_tagging]\ntask = "product_rating"', "task"),
        ('[paper]\npreset = "paper"', "preset"),
    ],
)
def test_a_methods_file_cannot_choose_presets(tmp_path: Path, table: str, key: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"{key}: set it in the experiment's file or as an override")):
        load_config(None, [method_file(tmp_path, table)])


def test_broken_or_missing_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("a = = 1")
    for name, message in (("bad.toml", "line 1"), ("none.toml", "no such config file")):
        with pytest.raises(InputError, match=message):
            load_config(tmp_path / name)


def test_setting_one_key_of_a_group_keeps_the_other_defaults() -> None:
    assert load_config(None, ["personal.batch_size=8"]).personal.epochs == load_config().personal.epochs == 6


def test_the_old_name_of_the_evaluation_point_still_works_but_not_beside_the_new_one(tmp_path: Path) -> None:
    experiment = tmp_path / "old.toml"
    experiment.write_text('[evaluate]\nstage = "collective"\n')
    assert load_config(experiment).evaluate.point == "collective"
    experiment.write_text('[evaluate]\nstage = "collective"\npoint = "collective"\n')
    with pytest.raises(InputError, match=r"evaluate\.stage: this is the old name of evaluate\.point"):
        load_config(experiment)


@pytest.mark.parametrize(
    ("value", "typed"),
    [(True, "true"), ([1, 2], "[1,2]"), ("6 spread", "6 spread"), (3e-3, "0.003")],
)
def test_a_toml_value_is_written_as_an_override(value: object, typed: str) -> None:
    assert as_override(value) == typed


@pytest.mark.parametrize("value", [{"a": 1}, [{"a": 1}]])
def test_a_table_is_no_value(value: object) -> None:
    with pytest.raises(InputError, match="expected a value, not a table"):
        as_override(value)


@pytest.mark.parametrize(
    ("typed", "source"), [("2024-01-01", "2024-01-01"), ("007", "007"), ("true", "true"), ('"x"', "x")]
)
def test_a_text_key_takes_what_was_typed(typed: str, source: str) -> None:
    assert load_config(None, [f"users.source={typed}"]).users.source == source


@pytest.mark.parametrize("typed", ["[007,12]", "['007', '12']", '["007","12"]', "007, 12"])
def test_ids_may_look_like_numbers(typed: str, tmp_path: Path) -> None:
    words = ['users.select="listed"', "users.collective_ids=[1]", "cohort=1"]
    assert load_config(None, [*words, f"users.target_ids={typed}"]).users.target_ids == ["007", "12"]
    (tmp_path / "own.toml").write_text(
        'cohort = 1\n[users]\nselect = "listed"\ncollective_ids = [1]\ntarget_ids = [12]\n'
    )
    assert load_config(tmp_path / "own.toml").users.target_ids == ["12"]


@pytest.mark.parametrize("variable", ["FEDPERFIT_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_a_cache_that_cannot_be_written_is_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEDPERFIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "/proc/nowhere")
    with pytest.raises(InputError, match=r"the cache folder /proc/nowhere\S*/users cannot be .*; set FEDPERFIT_CACHE"):
        make_cache("users")


def test_histories_are_exchanged_between_at_least_two_users() -> None:
    with pytest.raises(InputError, match="exchange_histories needs at least two target users"):
        load_config(None, ["users.target=1", "users.exchange_histories=true"])


def test_a_list_keeps_its_quoted_items_and_takes_the_rest_as_typed() -> None:
    words = ["users.select='listed'", 'users.collective_ids=["a,b", 7, 007]', "users.target_ids=[x]", "cohort=1"]
    assert load_config(None, words).users.collective_ids == ["a,b", "7", "007"]


@pytest.mark.parametrize("override", ["seed=true", "cohort=true", "sites=[true]", "local.lr=false"])
def test_true_is_no_number(override: str) -> None:
    with pytest.raises(InputError, match="not true or false"):
        load_config(None, [override])


def test_a_key_cannot_be_a_value_and_a_group() -> None:
    with pytest.raises(InputError, match="users: given as a value and as a group of keys"):
        load_config(None, ["users=5", "users.collective=9"])
