"""The report's section on privacy: every run's promise, ε by round, and audits."""

from pathlib import Path

import pytest

from configs.errors import InputError
from simulations.display.tables import rows_of
from simulations.experiments.audit.run import audit
from simulations.report.gather import gather_report
from simulations.report.page import write_page
from simulations.report.privacy import epsilon_by_round, promises
from simulations.run.simulate import simulate
from tests.conftest import tiny_config

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("results")
    simulate(tiny_config("privacy.kind=central", "privacy.target_epsilon=8"), "noisy", folder)
    simulate(tiny_config("secure.aggregation=true", "cohort=4"), "masked", folder)
    simulate(tiny_config("rounds=1"), "plain", folder)
    audit(folder / "plain", "audited", folder)
    return folder


def test_promises_of_every_run_are_those_of_its_record(results: Path) -> None:
    runs = gather_report([results / name for name in ("noisy", "masked", "plain")]).runs
    table = promises(runs)
    assert table is not None
    noisy, masked, plain = (list(row) for row in rows_of(table))
    spent = runs[0].record.privacy
    assert spent is not None
    assert noisy == [
        "noisy",
        "the server",
        f"{spent.epsilon:.3g}",
        "1e-05",
        f"{spent.noise_multiplier:.3g}",
        "1",
        str(spent.rounds),
        "every update",
    ]
    assert (masked[1], masked[-1]) == ("nobody", "a round's sum")
    assert (plain[1], plain[-1]) == ("nobody", "every update")
    assert promises(runs[2:]) is None
    simulate(tiny_config("method=reft-p", "secure.aggregation=true", "cohort=4"), "alone", results)
    alone = gather_report([results / "alone"]).runs
    assert promises(alone) is None  # it sends nothing
    both = promises([*runs, *alone])
    assert both is not None
    assert list(rows_of(both))[-1][-1] == "nothing"


def test_epsilon_by_round_rises_to_what_the_run_spent(results: Path) -> None:
    runs = gather_report([results / name for name in ("noisy", "plain")]).runs
    figure = epsilon_by_round(runs)
    assert figure is not None
    (line,) = figure.data
    assert list(line.y) == sorted(line.y)
    assert runs[0].record.privacy is not None
    assert line.y[-1] == runs[0].record.privacy.epsilon <= 8
    assert epsilon_by_round(runs[1:]) is None


def test_an_audit_brings_its_run_and_its_tables(results: Path, tmp_path: Path) -> None:
    gathered = gather_report([results / "audited"])
    assert [run.label for run in gathered.runs] == ["plain"]
    page = write_page([results / "audited"], tmp_path / "audited.html").read_text()
    assert 'id="privacy"' in page
    assert "what plain gives away" in page
    assert 'id="privacy"' not in write_page([results / "plain"], tmp_path / "plain.html").read_text()


def test_an_audit_whose_run_is_gone_is_named(results: Path, tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text((results / "audited" / "audit.json").read_text())
    with pytest.raises(InputError, match=r"plain/run\.json: not a run record"):
        gather_report([tmp_path])
