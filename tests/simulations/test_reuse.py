"""Which record is taken for a planned run, and which is not: lacking, damaged, or started from something else."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from configs.errors import InputError
from fl_server.records import read_run, write_run
from simulations.comparable import Run
from simulations.comparison_runs import complete
from simulations.planning import plan
from simulations.reuse import find, started_from
from tests.conftest import TINY

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    (run,) = complete(plan(["perfit"], None, TINY, [0]), tmp_path_factory.mktemp("results") / "x", False, print)
    return run.folder


def test_a_record_without_its_shared_tensors_is_reused_unless_others_start_from_it(
    completed: Path, tmp_path: Path
) -> None:
    (planned,) = plan(["perfit"], None, TINY, [0])
    there = tmp_path / "first" / planned.name
    shutil.copytree(completed, there)
    starting = replace(planned, starts_others=True)
    assert find(starting, there.parent) == there
    (there / "shared.safetensors").unlink()
    assert find(planned, there.parent) == there
    # Nothing is overwritten; in another folder it is made anew.
    with pytest.raises(InputError, match=r"others start from its shared tensors, which were not kept; choose another"):
        find(starting, there.parent)
    assert find(starting, tmp_path / "second") is None


def test_a_damaged_record_is_named_and_another_one_is_taken(completed: Path, tmp_path: Path) -> None:
    (planned,) = plan(["perfit"], None, TINY, [0])
    places = [tmp_path / name / planned.name for name in ("a", "b")]
    for place in places:
        shutil.copytree(completed, place)
    (places[0] / "ledger.parquet").unlink()
    clients = (places[0] / "clients.parquet").read_bytes()
    (places[0] / "clients.parquet").write_bytes(clients[:-20])
    assert find(planned, tmp_path / "c") == places[1]
    with pytest.raises(InputError, match=r"(ledger|clients)\.parquet: not readable"):
        find(planned, tmp_path / "a")
    with pytest.raises(InputError, match=r"(ledger|clients)\.parquet: not readable"):
        Run.read(places[0])
    # What is no record at all stands in nobody's way.
    (places[0] / "run.json").write_text("[1]")
    assert find(planned, tmp_path / "c") == places[1]


def test_a_run_that_started_from_other_tensors_is_not_reused(completed: Path, tmp_path: Path) -> None:
    (planned,) = plan(["perfit"], None, TINY, [0])
    start = tmp_path / "x" / "start"
    shutil.copytree(completed, start)
    later = replace(started_from(planned, start), name="later")
    (run,) = complete([later], start.parent, False, print)
    assert find(later, start.parent) == run.folder
    # The start has been made anew, by another version or machine.
    record = read_run(start)
    write_run(start, record.model_copy(update={"shared_sha256": "0" * 64}))
    with pytest.raises(InputError, match=r"later is of another config \(it started from other shared tensors than"):
        find(later, start.parent)
    assert find(later, tmp_path / "y") is None
