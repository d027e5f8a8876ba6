"""Which records are reused for a planned run, and which are not: incomplete, damaged, or started from another run."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from configs.errors import InputError
from fl_server.record.schema import read_run, write_run
from simulations.experiments.comparable import Run
from simulations.experiments.compare import complete, write_comparison
from simulations.experiments.plan import Planned, plan
from simulations.experiments.reuse import find, interrupted, started_from
from simulations.run.served import load_served_model
from simulations.run.simulate import resume
from tests.conftest import TINY, happened

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    (run,) = complete(plan(["perfit"], None, TINY, [0]), tmp_path_factory.mktemp("results") / "x", False, print)
    return run.folder


def test_record_without_shared_tensors_is_reused_unless_others_start_from_it(completed: Path, tmp_path: Path) -> None:
    (planned,) = plan(["perfit"], None, TINY, [0])
    place = tmp_path / "first" / planned.name
    shutil.copytree(completed, place)
    starting = replace(planned, starts_others=True)
    assert find(starting, place.parent) == place
    (place / "shared.safetensors").unlink()
    assert find(planned, place.parent) == place
    # Nothing is overwritten; in another folder it runs again.
    with pytest.raises(InputError, match=r"other runs start from its shared tensors, which were not kept; choose"):
        find(starting, place.parent)
    assert find(starting, tmp_path / "second") is None


def test_a_key_that_the_method_does_not_take_does_not_matter(completed: Path, tmp_path: Path) -> None:
    (lora,) = complete(plan(["lora-c"], None, [*TINY, "users.target_history=0"], [0]), tmp_path / "x", False, print)
    (other,) = plan(["lora-c"], None, [*TINY, "users.target_history=0", "sites=[1]", "rank.shared=3"], [0])
    assert find(other, tmp_path / "x") == lora.folder
    for change in ("sites=[1]", "rank.shared=3", "rank.private=3", "joint_private_init=true"):
        (other,) = plan(["perfit"], None, [*TINY, change], [0])
        with pytest.raises(InputError, match=f"different config .{change.partition('=')[0]}: "):
            find(other, completed.parent)


def test_what_is_reused_can_be_compared(completed: Path, tmp_path: Path) -> None:
    (lora,) = complete(plan(["lora-c"], None, [*TINY, "rounds=1", "sites=[2]"], [0]), tmp_path / "x", False, print)
    runs = complete(plan(["lora-c"], None, [*TINY, "rounds=1", "rank.shared=3"], [0, 1]), tmp_path / "y", False, print)
    assert runs[0].folder == lora.folder
    write_comparison(runs, "lora-c", tmp_path / "y")


@pytest.mark.parametrize("damaged", ["run.json", "config.toml"])
def test_a_record_of_the_same_name_that_cannot_be_read_is_not_overwritten(
    damaged: str, completed: Path, tmp_path: Path
) -> None:
    planned = plan(["perfit"], None, TINY, [0])
    place = tmp_path / planned[0].name
    shutil.copytree(completed, place)
    (place / damaged).write_text("{")
    with pytest.raises(InputError, match=r"perfit-seed0: cannot be read \(.*\); choose another name, or delete it"):
        complete(planned, tmp_path, False, print)
    assert (place / damaged).read_text() == "{"


def test_damaged_record_is_named_and_another_is_reused(completed: Path, tmp_path: Path) -> None:
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
    # In another folder, a file that is not a record is ignored.
    (places[0] / "run.json").write_text("[1]")
    assert find(planned, tmp_path / "c") == places[1]


def test_interrupted_run_is_resumed_only_with_the_tensors_it_started_from(
    completed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planned,) = plan(["perfit"], None, TINY, [0])
    start, folder = tmp_path / "x" / "start", tmp_path / "x" / "later"
    shutil.copytree(completed, start)
    later = replace(started_from(planned, start), name="later")

    def stop(folder: Path) -> None:
        if happened(folder, '"client", "phase": "personalize"'):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete([later], start.parent, False, print, stop)
    assert interrupted(later, folder, print)
    # Also from another working directory, where the path to the tensors differs.
    monkeypatch.chdir(tmp_path)
    elsewhere = replace(started_from(planned, start), name="later")
    assert elsewhere.config.start_from == "x/start" != later.config.start_from
    assert interrupted(elsewhere, folder, print)
    tensors = load_file(start / "shared.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, start / "shared.safetensors")
    assert not interrupted(later, folder, print)


def test_run_started_from_other_tensors_is_not_reused(completed: Path, tmp_path: Path) -> None:
    (planned,) = plan(["perfit"], None, TINY, [0])
    start = tmp_path / "x" / "start"
    shutil.copytree(completed, start)
    later = replace(started_from(planned, start), name="later")
    (run,) = complete([later], start.parent, False, print)
    assert find(later, start.parent) == run.folder
    # The start was run again, by another version or on another machine.
    record = read_run(start)
    write_run(start, record.model_copy(update={"shared_sha256": "0" * 64}))
    with pytest.raises(InputError, match=r"later has a different config \(it started from other shared tensors than"):
        find(later, start.parent)
    assert find(later, tmp_path / "y") is None


def test_run_is_not_resumed_after_its_method_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    code = tmp_path / "user_method.py"
    code.write_text("from strategies.perfit import PerFit\n\n\nclass Own(PerFit):\n    pass\n")
    method = "user_method:Own"

    def stop(folder: Path) -> None:
        if happened(folder, '"round", "round": 1'):
            raise KeyboardInterrupt

    def planned() -> list[Planned]:
        return plan([method], None, [*TINY, "rounds=3"], [0])

    with pytest.raises(KeyboardInterrupt):
        complete(planned(), tmp_path / "x", False, print, stop)
    code.write_text(code.read_text() + "# Another version.\n")
    with pytest.raises(InputError, match=r"name=Own-seed0: user_method\.py has changed since the run began"):
        resume("Own-seed0", tmp_path / "x")
    (run,) = complete(planned(), tmp_path / "x", False, print)
    assert "cannot be resumed (user_method.py has changed" in capsys.readouterr().out
    assert run.record.resumed == 0
    code.write_text(code.read_text() + "# A third one.\n")
    with pytest.raises(InputError, match=r"Own-seed0: user_method\.py has changed since the run began"):
        load_served_model(run.folder, None)
