"""Newcomers to an existing shift: another run's shared tensors in place of stage 1."""

from pathlib import Path

import pandas as pd
import pytest

from configs.errors import InputError
from fl_server.record.schema import read_run, write_run
from simulations.run.simulate import simulate
from simulations.run.starting_run import origin_of
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration
METHODS = ["perfit", "oppu", "fdlora", "flora", "fedreft", "lora-p", "p2p"]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_started_from_another_has_the_same_result(method: str, tmp_path: Path) -> None:
    words = [f"method={method}", *(["settings.rank=2"] if "lora" in method or method == "oppu" else [])]
    whole = simulate(tiny_config(*words), "whole", tmp_path)
    again = simulate(tiny_config(*words, f"start_from={tmp_path / 'whole'}"), "again", tmp_path)
    assert (again.metrics, again.metrics_collective) == (whole.metrics, whole.metrics_collective)
    for name in ("shared.safetensors", "predictions.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    ledgers = [pd.read_parquet(tmp_path / name / "ledger.parquet") for name in ("whole", "again")]
    assert "train" not in set(ledgers[1].phase)
    downloads = [frame[(frame.phase == "personalize") & (frame.direction == "down")] for frame in ledgers]
    assert downloads[0].payload_bytes.sum() == downloads[1].payload_bytes.sum()


def test_target_history_limits_newcomers_history(tmp_path: Path) -> None:
    simulate(tiny_config(), "whole", tmp_path)
    for items in (0, 3):
        words = [f"start_from={tmp_path / 'whole'}", f"users.target_history={items}"]
        record = simulate(tiny_config(*words), f"h{items}", tmp_path)
        clients = pd.read_parquet(tmp_path / f"h{items}" / "clients.parquet")
        assert set(clients[clients.phase == "personalize"].examples) == {items}
        assert pd.read_parquet(tmp_path / f"h{items}" / "users.parquet").history.tolist() == [8] * 6 + [items] * 3
        if not items:
            assert record.metrics == record.metrics_collective
    with pytest.raises(InputError, match=r"users\.target_history=9: no target user has more than 8 items"):
        simulate(tiny_config("users.target_history=9"), "too-many", tmp_path)


def test_groups_are_disjoint_and_have_the_same_targets(tmp_path: Path) -> None:
    tables = []
    for group in (0, 1):
        simulate(tiny_config(f"users.group={group}", "rounds=1"), f"g{group}", tmp_path)
        tables.append(pd.read_parquet(tmp_path / f"g{group}" / "users.parquet").user_id)
    assert not set(tables[0][:6]) & set(tables[1][:6])
    assert tables[0][6:].tolist() == tables[1][6:].tolist()


def test_targets_who_trained_the_shift_are_refused(tmp_path: Path) -> None:
    # Of the nine users, s0 to s2 are the targets and s3 to s8 the collective users.
    simulate(tiny_config("rounds=1"), "whole", tmp_path)
    start = f"start_from={tmp_path / 'whole'}"
    apart = simulate(tiny_config("users.reserved=9", start), "apart", tmp_path)
    assert apart.users.target == 3
    for number, where in enumerate(("whole", "apart")):  # the same shift, started from directly or through another run
        with pytest.raises(InputError, match=r"2 of 3 target users were collective users of \S*whole: s3, s4; exclude"):
            simulate(tiny_config("users.reserved=2", f"start_from={tmp_path / where}"), f"seen-{number}", tmp_path)
        assert not (tmp_path / f"seen-{number}").exists()
    simulate(tiny_config("users.reserved=2", "users.overlap=true", start), "meant", tmp_path)
    other = ["task=news_categorization", "rank.shared=4", "rank.private=2"]
    simulate(tiny_config("users.reserved=2", *other, start), "other-task", tmp_path)
    record = read_run(tmp_path / "whole")
    devices = record.model_copy(update={"users": record.users.model_copy(update={"source": "devices"})})
    write_run(tmp_path / "whole", devices)  # ids of real devices are only numbers
    simulate(tiny_config("users.reserved=2", start), "of-devices", tmp_path)


def test_the_personal_shift_may_have_another_shape_unless_stage_1_sent_its_start(tmp_path: Path) -> None:
    simulate(tiny_config("rounds=1"), "whole", tmp_path)
    simulate(tiny_config("rounds=1", "joint_private_init=true"), "joint", tmp_path)
    larger = ["private_sites=every 1", "rank.private=3"]
    record = simulate(tiny_config(*larger, f"start_from={tmp_path / 'whole'}"), "larger", tmp_path)
    assert record.params.private == 3 * (2 * 3 * 16 + 3)
    assert record.metrics_collective == read_run(tmp_path / "whole").metrics_collective
    with pytest.raises(InputError, match=r"does not fit: private_sites: \[1, 2\] in that run"):
        simulate(tiny_config("joint_private_init=true", *larger, f"start_from={tmp_path / 'joint'}"), "no", tmp_path)


def test_a_run_that_goes_back_to_itself_is_named(tmp_path: Path) -> None:
    simulate(tiny_config("rounds=1"), "one", tmp_path)
    simulate(tiny_config("rounds=1", f"start_from={tmp_path / 'one'}"), "other", tmp_path)
    assert origin_of(tmp_path / "other") == tmp_path / "one"
    config = tmp_path / "one" / "config.toml"
    config.write_text(config.read_text().replace('start_from = ""', f'start_from = "{tmp_path / "other"}"'))
    with pytest.raises(InputError, match=r"start_from: \S*other starts from itself"):
        origin_of(tmp_path / "other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=reft-c"], "method: 'perfit' in that run, 'reft-c' in this one"),
        (["rank.shared=3"], "rank.shared: 4 in that run, 3 in this one"),
        (["seed=1"], "seed: 0 in that run, 1 in this one"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    simulate(tiny_config("rounds=1"), "whole", tmp_path)
    with pytest.raises(InputError) as caught:
        simulate(tiny_config(*words, f"start_from={tmp_path / 'whole'}"), "other", tmp_path)
    assert message in str(caught.value)
    assert not (tmp_path / "other").exists()
