"""Projections, compared with arithmetic by hand on small records."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from configs.errors import InputError
from fl_server.record.folder import RunFolder
from simulations.cli.main import app
from simulations.projection.model import Scale, device_seconds, missed_bytes, project
from simulations.run.simulate import simulate
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("projected")
    simulate(tiny_config(), "three", folder)
    simulate(tiny_config("cohort=6"), "six", folder)
    simulate(tiny_config("method=fdlora", "settings.rank=2"), "fdlora", folder)
    simulate(tiny_config("method=lora-p"), "alone", folder)
    for name, seconds in (("three", 0.3), ("six", 0.5)):
        rounds = pd.read_parquet(folder / name / "rounds.parquet").drop(columns="metrics")
        rounds.loc[rounds["round"] > 0, "server_s"] = [seconds, seconds + 0.1]
        rounds.to_parquet(folder / name / "rounds.parquet")
    return folder


def test_bytes_are_those_of_measured_messages_at_another_size_and_number_format(results: Path) -> None:
    (row,) = project([results / "three"], Scale(users=1000, participation=0.02, rounds=10, bytes_per_element=2))
    ledger = pd.read_parquet(results / "three" / "ledger.parquet")
    up = ledger[(ledger.phase == "train") & (ledger.direction == "up")]
    messages = 6  # two rounds, three users
    assert (up.message_bytes > 0).sum() == messages
    rest = up.message_bytes.sum() - up.payload_bytes.sum()
    assert row["cohort"] == 20
    assert row["ingress_round_bytes"] == pytest.approx(20 * (2 * up.elements.sum() + rest) / messages)
    assert row["total_bytes"] == pytest.approx(10 * (row["ingress_round_bytes"] + row["egress_round_bytes"]))
    # At the measured scale, the projection equals the measurement.
    (same,) = project([results / "three"], Scale(users=6, participation=0.5, rounds=2, bytes_per_element=4))
    train = ledger[ledger.phase == "train"]
    assert same["total_bytes"] == pytest.approx(train.message_bytes.sum())


def test_the_servers_seconds_follow_the_line_through_the_measured_rounds(results: Path) -> None:
    scale = Scale(users=90, participation=0.1, rounds=1, bytes_per_element=4)
    (row,) = project([results / "three", results / "six"], scale)
    # 0.35 s at 3 users and 0.55 s at 6: 0.75 s at 9. Residuals are four times 0.05 s with 2 degrees of freedom, so
    # their variance is 0.005 s²; leverage of 9 beyond 3, 3, 6, 6 is 1/4 + 4.5²/9.
    assert row["server_round_s"] == pytest.approx(0.75)
    assert row["server_round_s_error"] == pytest.approx((0.005 * (0.25 + 4.5**2 / 9)) ** 0.5)
    (single,) = project([results / "three"], scale)
    assert single["server_round_s"] == pytest.approx(0.35 * 3)


def test_coded_numbers_take_as_many_bytes_as_measured(results: Path) -> None:
    words = ("users.collective=3", "cohort=3", "rounds=3")
    simulate(tiny_config("wire.up=int4", "wire.down=int8", *words), "coded", results, overwrite=True)
    ledger = pd.read_parquet(results / "coded" / "ledger.parquet")
    measured = ledger[ledger.phase == "train"].message_bytes.sum()
    for number_format in (2, 4):
        # All users take part in every round, so each one lacks a single change.
        scale = Scale(users=3, participation=1.0, rounds=3, bytes_per_element=number_format)
        (row,) = project([results / "coded"], scale)
        assert row["total_bytes"] == pytest.approx(measured)
        assert any("coded numbers" in line for line in row["assumptions"])


def test_a_client_gets_the_changes_that_it_lacks_or_a_copy() -> None:
    def scale(participation: float, rounds: int) -> Scale:
        return Scale(users=100, participation=participation, rounds=rounds, bytes_per_element=4)

    # There every time: nothing in the first round, whose tensors everybody knows, then one change.
    assert missed_bytes(scale(1.0, 4), 10.0, 25.0, known=1) == pytest.approx((0 + 3 * 10) / 4)
    assert missed_bytes(scale(1.0, 4), 10.0, 25.0, known=0) == pytest.approx(10)
    # Never there before: all changes, as long as they are shorter than a copy.
    assert missed_bytes(scale(1e-12, 5), 10.0, 25.0, known=1) == pytest.approx((0 + 10 + 20 + 25 + 25) / 5)
    # By halves: one change lacks with probability 1/2, two with 1/4, three with 1/8.
    second, third = 10, 0.5 * 10 + 0.5 * 20
    fourth = 0.5 * 10 + 0.25 * 20 + 0.25 * 25
    assert missed_bytes(scale(0.5, 4), 10.0, 25.0, known=1) == pytest.approx((0 + second + third + fourth) / 4)
    assert missed_bytes(scale(0.5, 10**9), 10.0, 25.0, known=1) == pytest.approx(fourth)
    assert missed_bytes(scale(0.5, 4), 0.0, 25.0, known=1) == 0


def test_a_small_federation_tells_what_a_large_one_downloads(tmp_path: Path) -> None:
    words = ("wire.up=int4", "wire.down=int4", "rounds=6", "cohort=4", "users.synthetic.history=4")
    for name, users in (("few", 8), ("many", 60)):
        simulate(tiny_config(*words, f"users.collective={users}"), name, tmp_path)
    scale = Scale(users=60, participation=4 / 60, rounds=6, bytes_per_element=4)
    few, many = (project([tmp_path / name], scale)[0]["egress_round_bytes"] for name in ("few", "many"))
    ledger = pd.read_parquet(tmp_path / "many" / "ledger.parquet")
    sent = ledger[(ledger.phase == "train") & (ledger.direction == "down")].message_bytes.sum() / 6
    assert many == pytest.approx(sent, rel=0.05)
    assert few == pytest.approx(sent, rel=0.15)


def test_masked_bytes_and_the_messages_of_secure_aggregation_are_projected_as_measured(tmp_path: Path) -> None:
    simulate(tiny_config("secure.aggregation=true", "rounds=2"), "masked", tmp_path)
    (row,) = project([tmp_path / "masked"], Scale(users=6, participation=0.5, rounds=2, bytes_per_element=4))
    rounds = pd.read_parquet(tmp_path / "masked" / "rounds.parquet")
    assert row["total_bytes"] == pytest.approx((rounds.bytes_up + rounds.bytes_down).sum())
    record = RunFolder(tmp_path / "masked").record
    assert record.bytes.per_client_round_up == pytest.approx(rounds.bytes_up.sum() / rounds.cohort.sum())
    simulate(tiny_config("rounds=2"), "plain", tmp_path)
    assert len(project([tmp_path / "masked", tmp_path / "plain"], Scale(60, 0.5, 1, 4))) == 2


def test_an_opening_is_counted_once_per_user_in_the_new_number_format(results: Path) -> None:
    ledger = pd.read_parquet(results / "fdlora" / "ledger.parquet")
    opening = ledger[(ledger.phase == "train") & (ledger["round"] == 0)]
    (row,) = project([results / "fdlora"], Scale(users=100, participation=0.1, rounds=1, bytes_per_element=2))
    # Six users took part in it, in fp32.
    measured = opening.message_bytes.sum() - opening.payload_bytes.sum() / 2
    assert row["opening_bytes"] == pytest.approx(100 * measured / 6)
    assert any("opening" in line for line in row["assumptions"])


def test_two_settings_of_a_method_are_two_rows_and_noise_is_not_fitted(results: Path, tmp_path: Path) -> None:
    simulate(tiny_config("rank.shared=2"), "other", tmp_path)
    scale = Scale(users=100, participation=0.1, rounds=1, bytes_per_element=4)
    rows = project([results / "three", tmp_path / "other"], scale)
    assert [row["method"] for row in rows] == ["perfit, three", "perfit, other"]
    shutil.copytree(results / "six", tmp_path / "falling")
    rounds = pd.read_parquet(tmp_path / "falling" / "rounds.parquet").assign(server_s=0.01)
    rounds.to_parquet(tmp_path / "falling" / "rounds.parquet")
    (row,) = project([results / "three", tmp_path / "falling"], scale)
    assert (row["server_round_s"], row["server_memory_bytes"]) == (None, None)


def test_time_is_links_and_steps_of_the_slowest_client_waited_for() -> None:
    scale = Scale(users=100, participation=0.1, rounds=1, bytes_per_element=4, devices="silos")
    seconds = device_seconds(scale, {"up": 1e6, "down": 1e6}, steps=10)
    # Of ten devices at least one nearly always computes on a CPU: 10 s, and 16 Mbit over 100 Mbit/s. A cohort of 10,000
    # of a million users is simulated by 200.
    larger = Scale(users=10**6, participation=0.01, rounds=1, bytes_per_element=4, devices="silos")
    assert device_seconds(larger, {"up": 1e6, "down": 1e6}, steps=10) == pytest.approx(10.16, abs=0.01)
    assert seconds == pytest.approx(10.16, abs=0.05)


def test_rarely_available_devices_are_found_among_all_users(tmp_path: Path) -> None:
    preset = tmp_path / "rare.toml"
    device = '[[classes]]\nname = "d"\nshare = 1\nsteps_per_second = 1.0\nup_mbit = 8\ndown_mbit = 8\n'
    preset.write_text(f"deadline_s = 1000\n{device}available = 0.02\n")
    scale = Scale(users=10**5, participation=1e-4, rounds=1, bytes_per_element=4, devices=str(preset))
    # 1 s each way and 10 steps, as if all were available; a round without its ten clients would last to the deadline.
    assert device_seconds(scale, {"up": 1e6, "down": 1e6}, steps=10) == pytest.approx(12, abs=0.01)


def test_the_command_prints_every_assumption_and_refuses_invalid_values(results: Path, tmp_path: Path) -> None:
    words = ["project", "three", "six", "--results", str(results)]
    shown = CliRunner().invoke(app, [*words, "--plot", str(tmp_path / "p.svg")], catch_exceptions=False).output
    assert "extrapolated to 167 times the largest of them" in " ".join(shown.split())
    assert (tmp_path / "p.svg").read_bytes().startswith(b"<?xml")
    most = [*words, "--users", "1e12", "--plot", str(tmp_path / "most.svg")]
    assert CliRunner().invoke(app, most, catch_exceptions=False).exit_code == 0
    content = json.loads(CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False).stdout)
    assert content[0]["cohort"] == 1000
    for more, message in (
        (["--users", "0"], "users=0"),
        (["--users", "inf"], "users=inf: expected a whole number"),
        (["--participation", "2"], "participation=2.0"),
        (["--plot", "p.gif"], "expected a name that ends in"),
        (["--devices", "nope"], "unknown preset 'nope'"),
    ):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, [*words, *more], catch_exceptions=False)
    for name, message in (("alone", "sends nothing in stage 1"), ("nothing", "no run record, comparison")):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, ["project", name, "--results", str(results)], catch_exceptions=False)
