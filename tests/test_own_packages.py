"""Files and folders of a person's own that have the names of fedperfit's packages are not in the way, or are named."""

import subprocess
import sys
from pathlib import Path

import pytest

import fedperfit
from configs.errors import InputError
from configs.import_path import PACKAGES, find_intruder, python_path_folders, read_import_path, write_import_path
from configs.load import load_config
from simulations.run.simulate import simulate
from strategies.loading import load_method
from tests.conftest import tiny_config


@pytest.fixture
def intruded(tmp_path: Path) -> Path:
    """A folder with a module or a package of every name that fedperfit's packages have, each of which fails."""
    for name in PACKAGES[1:]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    (tmp_path / "configs.py").write_text("raise RuntimeError('the wrong one')")
    return tmp_path


def python(folder: Path, code: str) -> str:
    """Run code as a script or a notebook in a folder does: the folder is searched first."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_notebook_beside_them_gets_ours(intruded: Path) -> None:
    code = "from fedperfit import load_config; import strategies; print(load_config().method, strategies.__file__)"
    root = Path(fedperfit.__file__).parents[1]
    assert python(intruded, code) == f"strategies.perfit:PerFit {root / 'strategies' / '__init__.py'}\n"


def test_the_command_beside_them_works(intruded: Path) -> None:
    assert "Usage" in python(
        intruded, "import sys; sys.argv = ['x', '--help']; import fedperfit.__main__ as m; m.main()"
    )


def test_one_that_was_imported_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "configs.py").write_text("")
    said = python(tmp_path, "import configs, fedperfit").splitlines()[-1]
    assert said.startswith(f"ImportError: fedperfit needs its own package 'configs', but {tmp_path / 'configs.py'} was")


def test_one_on_pythonpath_is_named_before_a_run_on_ray(intruded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(intruded))
    with pytest.raises(
        InputError, match=r"^PYTHONPATH: .*configs.* would be imported in place of fedperfit's own configs"
    ):
        simulate(tiny_config("engine=ray"), "run", intruded / "results")
    assert not (intruded / "results").exists()


def test_an_empty_entry_of_the_path_is_the_current_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for path, folders in (("", []), ("/a:/b", ["/a", "/b"]), (":/b", [str(tmp_path), "/b"])):
        monkeypatch.setenv("PYTHONPATH", path)
        assert python_path_folders() == folders


def test_our_own_folder_is_no_intruder() -> None:
    assert find_intruder([str(Path(fedperfit.__file__).parents[1])]) is None


def test_a_runs_processes_are_told_where_its_method_is(tmp_path: Path) -> None:
    assert read_import_path(tmp_path) == []
    write_import_path(tmp_path, ["/one", "/two"])
    assert read_import_path(tmp_path) == ["/one", "/two"]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("from strategies.method import Visit", "Visit is now TrainRequest, and its `kept` is `client_state`"),
        ("from strategies.method import Trained", "Trained is now TrainResult"),
        (
            "from strategies.adapters.lora import LoraAdapters",
            "strategies.adapters.lora is now strategies.lora.adapters",
        ),
        ("from strategies.averaging import TensorMean", "strategies.averaging is now strategies.aggregation.mean"),
        ("from strategies import averaging", "strategies.averaging is now strategies.aggregation.mean"),
        ("from strategies import robust", "strategies.robust is now strategies.aggregation.robust"),
        ("from strategies.lora import LoraAdapters", "LoRA's adapters are now in strategies.lora.adapters"),
        ("import strategies.method as m; m.Visit", "Visit is now TrainRequest"),
        ("from fl_clients.backbone import find_blocks", "is in fl_clients.backbone.load"),
        ("from strategies.aggregation import ShiftAggregator", "are now in strategies.shifts.averages"),
        ("from strategies.metrics import pool", "it is now in strategies.metrics.statistics"),
    ],
)
def test_a_method_written_for_version_0_1_is_told_what_has_moved(line: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "old_method.py").write_text(f"{line}\n")
    with pytest.raises(ValueError, match="method 'old_method:Old' cannot be imported") as caught:
        load_method("old_method:Old", {}, {}, [str(tmp_path)])
    assert hint in str(caught.value)


def test_programs_are_told_where_to_import_from() -> None:
    with pytest.raises(ImportError, match="from fedperfit import simulate"):
        exec("from simulations import simulate")


def test_a_method_that_forgets_a_function_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "half_method.py").write_text(
        "from strategies.method import Method\n"
        "class Half(Method):\n"
        "    name, first_round = 'half', 1\n"
        "    def server_init(self, backbone): return {}\n"
        "    def client_train(self, adapter, request): ...\n"
    )
    with pytest.raises(ValueError, match=r"it lacks server_aggregator, client_attach, client_load$"):
        load_method("half_method:Half", {}, {}, [str(tmp_path)])


def test_the_folder_of_a_method_never_comes_before_ours(intruded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = "import sys\nfrom strategies.perfit import PerFit\nFIRST = sys.path[0]\nclass Mine(PerFit): ...\n"
    (intruded / "first_method.py").write_text(code)
    values = load_config().method_values()
    load_method("first_method:Mine", values, {}, [str(intruded)])
    assert str(intruded) != sys.modules["first_method"].FIRST
    assert sys.path[-1] == str(intruded)
