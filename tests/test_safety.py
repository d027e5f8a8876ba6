"""What the code must never do, and what a record must never contain."""

import ast
import re
import stat
import traceback
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from configs.load import dump_resolved
from fl_clients import device_app
from fl_clients.process.device_errors import DeviceError
from fl_server.record.folder import RunFolder
from simulations.exports.export import export
from simulations.report.page import write_page
from simulations.run.simulate import simulate
from strategies.metrics.statistics import (
    classification_statistics,
    generation_statistics,
    rating_statistics,
)
from strategies.wire import ClientReport, RollCallAnswer
from tests.conftest import movie, tiny_config, write_lamp

ROOT = Path(__file__).parents[1]
PACKAGES = ("configs", "strategies", "fl_clients", "fl_server", "simulations", "benchmarks")
FORBIDDEN = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def test_nothing_is_unpickled_or_evaluated() -> None:
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "eval", "exec", "np.load", "numpy.load"), f"{path}: {called}"
            assert not FORBIDDEN & {name.partition(".")[0] for name in names}, path


@pytest.mark.integration
def test_a_record_contains_no_user_text_unless_predictions_are_enabled(tmp_path: Path) -> None:
    films = [movie(str(number), f"Heist {number}.") for number in range(9)]
    for number, film in enumerate(films):
        film["profile"][0]["description"] = f"Secret {number} of a lighthouse keeper."
    source = write_lamp(tmp_path / "lamp", films, [{"id": str(number), "output": "comedy"} for number in range(9)])
    simulate(tiny_config(f"users.source={source}", "evaluate.predictions=false"), "run", tmp_path)
    for path in (path for path in (tmp_path / "run").rglob("*") if path.is_file()):
        content = path.read_bytes()
        assert b"lighthouse" not in content, path
        assert b"Heist" not in content, path
    assert not (tmp_path / "run" / "predictions.jsonl").exists()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.integration
def test_only_the_owner_can_read_what_is_about_real_users(tmp_path: Path) -> None:
    films = [movie(str(number)) for number in range(9)]
    source = write_lamp(tmp_path / "lamp", films, [{"id": str(number), "output": "comedy"} for number in range(9)])
    simulate(tiny_config(f"users.source={source}"), "real", tmp_path)
    simulate(tiny_config(), "synthetic", tmp_path)
    assert mode(tmp_path / "real") == 0o700
    assert mode(tmp_path / "synthetic") & 0o055 == 0o055
    for name, expected in (("real", 0o600), ("synthetic", 0o644)):
        assert mode(write_page([tmp_path / name], tmp_path / f"{name}.html")) == expected
    target = RunFolder(tmp_path / "real").users(["user_id", "partition"]).to_pylist()[-1]["user_id"]
    assert mode(export(tmp_path / "real", target, "safetensors", tmp_path / "out")) == 0o700
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(Path.home()) not in card


def test_a_devices_error_tells_the_server_its_type_and_place_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_message: Message, _context: Context) -> Message:
        raise ValueError("the user's text: I love lighthouses")

    monkeypatch.setattr(device_app, "tasks", fail)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    config = dump_resolved(tiny_config())
    context = Context(1, 1, {"store": str(tmp_path / "store")}, RecordDict(), {"config": config})
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    # Flower sends the type and the text of what the app raises.
    with pytest.raises(DeviceError) as caught:
        device_app.app(message, context)
    assert str(caught.value).startswith("ValueError in test_safety.py, line ")
    assert "lighthouse" not in "".join(traceback.format_exception(caught.value))
    log = tmp_path / "store" / "errors.log"
    assert "I love lighthouses" in log.read_text()
    assert mode(log) == 0o600


@pytest.mark.integration
def test_a_user_id_is_never_used_as_a_path(tmp_path: Path) -> None:
    names = ["../../up", "/etc/passwd", "a/b", "..", "con\x00trol", "🎬" * 40, " ", "x" * 4000, "7"]
    films = [{**movie(str(n)), "user_id": name} for n, name in enumerate(names)]
    source = write_lamp(tmp_path / "lamp", films, [{"id": str(n), "output": "comedy"} for n in range(9)])
    simulate(tiny_config(f"users.source={source}"), "run", tmp_path / "results")
    assert {path.name for path in tmp_path.iterdir()} == {"lamp", "results"}
    assert {path.name for path in (tmp_path / "results" / "run" / "private").iterdir()} == {
        f"{number}.safetensors" for number in (6, 7, 8)
    }


def test_the_page_lists_everything_that_leaves_a_device() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text().partition("## What leaves a device")[2].partition("\n## ")[0]
    named = {
        name for row in page.splitlines() if row.startswith("| ") for name in re.findall(r"`(\w+)`", row.split("|")[2])
    }
    statistics = {
        **classification_statistics([0], [0], 2),
        **rating_statistics(["1"], ["2"]),
        **generation_statistics(["a"], ["a"]),
    }
    assert named == {*RollCallAnswer.model_fields, *ClientReport.model_fields, *statistics}
