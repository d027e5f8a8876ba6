"""What newcomers gain by their own adapter, with few collective users and with more."""

from pathlib import Path

import pytest

from fl_server.record.schema import read_run
from simulations.display.tables import rows_of
from simulations.experiments.cold_start.run import run_all
from simulations.experiments.cold_start.spec import ColdStartSpec
from simulations.experiments.cold_start.tables import cold_start_tables
from simulations.experiments.cold_start.write import findings
from tests.conftest import TINY

pytestmark = pytest.mark.integration
SMALL = ["settings.latent=8", "settings.head=4", "settings.components=1", "rounds=1", "cohort=2", "users.target=3"]
WORDS = [*(word for word in TINY if not word.startswith(("users.collective", "users.target"))), *SMALL]


def test_each_number_of_users_has_its_controls(tmp_path: Path) -> None:
    asked = ColdStartSpec([2, 4], ["p2p"], [], seeds=[0], history=[], epochs=[], compositions=0, transfer=False)
    rows, runs = run_all(asked, None, WORDS, tmp_path / "cold", print)
    report = findings(rows, runs, "cold")
    assert [(row.method, row.collective) for row in report.controls] == [("p2p", 2), ("p2p", 4)]
    for row in report.controls:
        record = read_run(tmp_path / "cold" / f"movie_tagging-p2p-{row.collective}-seed0")
        means = {name: control.mean for name, control in row.controls.items()}
        assert means == {name: metrics["accuracy"] for name, metrics in record.controls.items()}
    gains = [control.gain for row in report.controls for control in row.controls.values() if control.gain]
    # Six tests of one table: Holm multiplies the smallest p by six.
    assert min(gain.p_adjusted for gain in gains) == pytest.approx(min(1.0, 6 * min(gain.p_value for gain in gains)))
    first, mean, *_ = rows_of(cold_start_tables(report)[-1])
    assert first[1:4] == ["p2p", "2", "its own"]
    assert mean[3:5] == ["random profile", f"{report.controls[0].controls['random profile'].mean:.3f}"]


def test_newcomers_without_items_have_the_adapter_of_the_mean_profile(tmp_path: Path) -> None:
    asked = ColdStartSpec([2], ["p2p"], [], seeds=[0], history=[0, 3], epochs=[], compositions=0, transfer=False)
    rows, runs = run_all(asked, None, WORDS, tmp_path / "cold", print)
    report = findings(rows, runs, "cold")
    levels = report.newcomers[0].by_history
    assert list(levels) == ["0", "3", "all"]
    assert levels["0"].mean == report.controls[0].controls["mean profile"].mean
    without = findings(rows[rows.history != 0], runs, "cold")
    assert list(without.newcomers[0].by_history) == ["3", "all"]
