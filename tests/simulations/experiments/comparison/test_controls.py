"""What users gain by their own adapter: the runs' figures, user by user, and whether it is more than noise."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fl_server.record.schema import RunRecord
from simulations.display.tables import rows_of
from simulations.experiments.comparable import Run
from simulations.experiments.comparison.analysis import compare_runs
from simulations.experiments.comparison.controls import controls
from simulations.experiments.comparison.tables import comparison_tables
from simulations.run.simulate import simulate
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunRecord]:
    folder = tmp_path_factory.mktemp("controls")
    small = ("method=p2p", "settings.latent=8", "settings.head=4", "settings.components=1", "settings.outer_lr=0.3")
    return folder / "p2p", simulate(tiny_config(*small), "p2p", folder)


def test_the_gain_over_a_control_is_that_of_the_runs_figures(ran: tuple[Path, RunRecord]) -> None:
    folder, record = ran
    found = controls([Run.read(folder)])
    assert found.keys() == record.controls.keys()
    for name, control in found.items():
        assert control.per_seed == [record.controls[name]["accuracy"]]
        assert control.gain is not None
        assert control.gain.users == 3
        # Users have equally many questions.
        assert control.gain.difference == pytest.approx(record.metrics["accuracy"] - control.mean)


def test_a_table_shows_each_control_with_its_test(ran: tuple[Path, RunRecord]) -> None:
    report, _ = compare_runs([Run.read(ran[0])], "p2p", ran[0].parent)
    own, *others = (list(row) for row in rows_of(comparison_tables(report)[-1]))
    assert own[:2] == ["p2p: own", f"{ran[1].metrics['accuracy']:.3f}"]
    assert [row[0] for row in others] == [f"p2p: {name}" for name in ran[1].controls]
    gains = [control.gain for control in report.methods[0].controls.values()]
    # Three tests of one table: Holm multiplies the smallest p by three.
    assert min(gain.p_adjusted for gain in gains if gain) >= min(1, 3 * min(gain.p_value for gain in gains if gain))


def test_with_a_network_on_the_clients_what_is_their_own_is_known_after_stage_2_only(tmp_path: Path) -> None:
    small = ("method=p2p", "settings.design=client", "settings.latent=8", "settings.head=4", "local.lr=0.05")
    record = simulate(tiny_config(*small, "rounds=4"), "p2p", tmp_path)
    (control,) = controls([Run.read(tmp_path / "p2p")]).values()
    assert control.own is not None
    assert control.gain is not None
    assert control.own.mean == record.metrics["accuracy"]
    assert control.gain.difference == pytest.approx(record.metrics["accuracy"] - control.mean)


def test_a_control_without_every_users_answer_has_no_test(ran: tuple[Path, RunRecord], tmp_path: Path) -> None:
    folder = tmp_path / "p2p"
    shutil.copytree(ran[0], folder)
    clients = pq.read_table(folder / "clients.parquet")
    place = max(place for place, phase in enumerate(clients["phase"].to_pylist()) if phase == "evaluate")
    rest = [clients.slice(0, place), clients.slice(place + 1)]
    pq.write_table(pa.concat_tables(rest), folder / "clients.parquet")
    last = list(ran[1].controls)[-1]
    assert [name for name, control in controls([Run.read(folder)]).items() if control.gain is None] == [last]


def test_a_method_without_controls_has_none(tmp_path: Path) -> None:
    simulate(tiny_config("method=perfit"), "perfit", tmp_path)
    assert controls([Run.read(tmp_path / "perfit")]) == {}
