"""Runs on simulated devices that are absent, slow or lost, with the same history every time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from configs.errors import InputError
from simulations.report.page import write_page
from simulations.run.simulate import simulate
from tests.conftest import tiny_config
from tests.same import assert_same_run

pytestmark = pytest.mark.integration
PHONES = ["devices.preset=phones", "users.collective=20", "cohort=4", "rounds=5", "devices.deadline_s=20"]


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(folder / f"{name}.parquet").to_pylist()
    return table


def test_a_round_averages_timely_replies_and_counts_arrived_bytes(tmp_path: Path) -> None:
    record = simulate(tiny_config(*PHONES), "run", tmp_path)
    clients = [row for row in rows(tmp_path / "run", "clients") if row["phase"] == "train"]
    every = [row for row in rows(tmp_path / "run", "ledger") if row["phase"] == "train"]
    ledger = [row for row in every if row["message_bytes"]]
    lost = [row for row in clients if row["status"] in ("dropped", "late")]
    assert lost
    assert {row["device"] for row in clients} == {"new", "usual", "old"}
    for round_row in rows(tmp_path / "run", "rounds"):
        number = round_row["round"]
        sampled = [row for row in clients if row["round"] == number]
        timely = [row for row in sampled if row["status"] == "ok"]
        assert len(sampled) == round_row["cohort"] <= 6  # ⌈4·1.3⌉
        assert len(timely) == round_row["replies"] <= 4
        arrived = {row["user"] for row in ledger if row["round"] == number and row["direction"] == "up"}
        assert arrived == {row["user"] for row in timely}
        assert {row["user"] for row in ledger if row["round"] == number and row["direction"] == "down"} == {
            row["user"] for row in sampled
        }
        latest = max(row["simulated_s"] for row in timely)
        assert round_row["simulated_s"] == (latest if len(timely) == 4 else 20)
        for row in timely:
            up, down = (
                1000
                + sum(
                    r["payload_bytes"]
                    for r in every
                    if (r["direction"], r["user"], r["round"]) == (way, row["user"], number)
                )
                for way in ("up", "down")
            )
            speed, uplink, downlink = {"new": (2, 20, 80), "usual": (0.8, 8, 30), "old": (0.25, 2, 8)}[row["device"]]
            expected = 8e-6 * (up / uplink + down / downlink) + row["steps"] / speed
            assert row["simulated_s"] == pytest.approx(expected, rel=1e-9)
    assert record.simulated_s == pytest.approx(sum(row["simulated_s"] for row in rows(tmp_path / "run", "rounds")))
    assert record.left_out == 0


def test_a_task_that_needs_more_memory_than_its_device_has_is_reported(tmp_path: Path) -> None:
    # This process uses more than 1 MB and less than 1 TB.
    sizes = "devices.classes=[{name='small',share=1,memory_mb=1,steps_per_second=1,up_mbit=1,down_mbit=1}"
    sizes += ",{name='large',share=1,memory_mb=1e6,steps_per_second=1,up_mbit=1,down_mbit=1}]"
    record = simulate(tiny_config(sizes), "run", tmp_path)
    tasks = [row for row in rows(tmp_path / "run", "clients") if row["device"]]
    assert {row["phase"] for row in tasks} == {"train", "personalize", "evaluate"}
    assert {(row["device"], row["over_memory"]) for row in tasks} == {("small", True), ("large", False)}
    assert record.over_memory == sum(row["over_memory"] for row in tasks)
    notes = (tmp_path / "run" / "events.jsonl").read_text()
    assert notes.count("device small has 1 MB") == record.over_memory
    assert "more than its device (small) has" in write_page([tmp_path / "run"], tmp_path / "page.html").read_text()


def test_the_same_seed_gives_the_same_history_and_another_seed_another(
    finished: Callable[..., Path], tmp_path: Path
) -> None:
    def arrivals(folder: Path) -> list[tuple[object, object]]:
        return [(row["user"], row["simulated_s"]) for row in rows(folder, "clients") if row["phase"] == "train"]

    one = finished(*PHONES)
    simulate(tiny_config(*PHONES), "two", tmp_path)
    assert_same_run(tmp_path / "two", one)
    simulate(tiny_config(*PHONES, "seed=1"), "other", tmp_path)
    assert arrivals(tmp_path / "two") == arrivals(one) != arrivals(tmp_path / "other")


def test_a_round_with_too_few_replies_is_abandoned_and_the_next_begins(tmp_path: Path) -> None:
    # Four simulated seconds are enough only for new phones: four steps take 2 s on them and 5 s on usual ones.
    words = [*PHONES, "devices.deadline_s=4", "devices.least_share=1.0"]
    record = simulate(tiny_config(*words), "run", tmp_path)
    rounds = rows(tmp_path / "run", "rounds")
    assert record.status == "completed"
    assert any(row["replies"] < 4 and not row["metrics"] for row in rounds)
    assert all(row["simulated_s"] == 4 for row in rounds if row["replies"] < 4)
    assert "is abandoned" in (tmp_path / "run" / "events.jsonl").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["devices.preset=phone"], "unknown preset 'phone'; did you mean 'phones'? (known: phones, silos"),
        (["devices.preset=none.toml"], "none.toml: no such config file"),
        (["devices.preset=phones", "devices.over_selection=-1"], "devices.over_selection=-1"),
        (["devices.deadline_s=5"], "devices.deadline_s needs devices"),
        (["devices=phones"], "devices='phones': expected a group of keys"),
    ],
)
def test_an_invalid_environment_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        tiny_config(*words)
    assert message in str(caught.value)
