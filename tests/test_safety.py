"""What the code must never do, and what a record must never contain."""

import ast
from pathlib import Path

import pytest

from simulations.run.simulate import simulate
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
