"""Secure aggregation with simulated devices that come and go: short rounds are abandoned, and the run goes on."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from simulations.run.simulate import simulate
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("habit", "arrived"),
    # Two or three updates are enough for least_share, but not for the threshold. Nobody trains if too few are there.
    [("dropout=0.35", {2, 3}), ("available=0.3", {0})],
    ids=["drop out", "are away"],
)
def test_a_round_with_too_few_devices_is_abandoned(habit: str, arrived: set[int], tmp_path: Path) -> None:
    phone = f"{{name='phone',share=1,steps_per_second=1,up_mbit=1,down_mbit=1,{habit}}}"
    config = tiny_config(
        *("secure.aggregation=true", "secure.threshold=4", "cohort=6", "rounds=6", "users.collective=12"),
        *("devices.least_share=0.3", f"devices.classes=[{phone}]", "faults.retries=0", "seed=1"),
    )
    simulate(config, "run", tmp_path)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    abandoned = [event["text"] for event in events if "is abandoned" in event.get("text", "")]
    rounds = pq.read_table(tmp_path / "run" / "rounds.parquet").to_pylist()
    assert 0 < len(abandoned) < len(rounds) == 6
    assert arrived & {int(text.split(": ")[1].split()[0]) for text in abandoned}
