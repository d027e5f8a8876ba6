"""Records that another person handed over: resuming them runs nothing of theirs unasked, and writes only to them."""

import shutil
import sys
from pathlib import Path

import pytest

from configs.errors import InputError
from simulations.run.served import load_served_model
from simulations.run.simulate import resume, simulate
from tests.conftest import happened, tiny_config

pytestmark = pytest.mark.integration


def test_a_record_that_would_run_code_from_elsewhere_is_not_resumed_without_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    for folder in (elsewhere, here):
        folder.mkdir()
    code = "from strategies.perfit import PerFit\nclass Mine(PerFit):\n    pass\n"
    (elsewhere / "handed_over.py").write_text(code)
    config = tiny_config("method=handed_over:Mine", "rounds=2")

    def stop(folder: Path) -> None:
        if happened(folder, '"round": 1'):
            raise KeyboardInterrupt

    monkeypatch.chdir(elsewhere)
    with pytest.raises(KeyboardInterrupt):
        simulate(config, "run", tmp_path, import_path=[str(elsewhere)], on_progress=stop)
    monkeypatch.chdir(here)
    (elsewhere / "handed_over.py").write_text(code + "raise SystemExit('it ran')\n")
    with pytest.raises(InputError, match=r"would run the code of handed_over:Mine from .*elsewhere.*--trust"):
        resume("run", tmp_path)
    (elsewhere / "handed_over.py").write_text(code)
    assert resume("run", tmp_path, trust=True).status == "completed"
    # As in a new process.
    monkeypatch.delitem(sys.modules, "handed_over", raising=False)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(elsewhere)])
    with pytest.raises(InputError, match="No module named 'handed_over'; if it is yours, put its folder on PYTHONPATH"):
        load_served_model(tmp_path / "run", None)
    monkeypatch.syspath_prepend(elsewhere)
    assert load_served_model(tmp_path / "run", None).method.name == "perfit"


def half_done(folder: Path) -> Path:
    def stop(run: Path) -> None:
        if happened(run, '"round": 1'):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tiny_config("rounds=2"), "run", folder, on_progress=stop)
    return folder / "run"


@pytest.mark.parametrize("name", [".rounds", "private", "events.jsonl", "engine.log"])
def test_a_record_with_links_is_not_resumed(name: str, tmp_path: Path) -> None:
    run = half_done(tmp_path)
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "keep.txt").write_text("mine")
    if (run / name).is_dir():
        shutil.rmtree(run / name)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim if "." not in name[1:] else victim / "keep.txt")
    with pytest.raises(InputError, match="not a link"):
        resume("run", tmp_path)
    assert (victim / "keep.txt").read_text() == "mine"


def test_a_record_cannot_have_any_object_called(tmp_path: Path) -> None:
    run = half_done(tmp_path)
    config = (run / "config.toml").read_text().replace("strategies.perfit:PerFit", "subprocess:Popen")
    head = config.replace("[settings]", f'[settings]\nargs = ["touch", "{tmp_path / "ran"}"]')
    (run / "config.toml").write_text(head)
    with pytest.raises(InputError, match=r"does not implement strategies\.method\.Method"):
        resume("run", tmp_path)
    assert not (tmp_path / "ran").exists()
