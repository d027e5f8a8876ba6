"""The site of the pages: built strictly, so that no link is dead, from docstrings that are all there."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from configs.load import flatten
from configs.schema import RunConfig

ROOT = Path(__file__).parents[1]


@pytest.mark.integration
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    site = tmp_path / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--collective" in (site / "api" / "commands" / "index.html").read_text()
    folded = (site / "run-record" / "index.html").read_text()
    assert "| column |" not in folded
    keys = (site / "api" / "config" / "index.html").read_text()
    assert all(f"<code>{key}</code>" in keys for key in flatten(RunConfig()))
    assert "server_aggregator" in (site / "api" / "python" / "index.html").read_text()
    assert len(list((site / "decisions").iterdir())) == len(list((ROOT / "docs" / "decisions").iterdir()))


@pytest.mark.parametrize("name", ["schema", "exchange", "environment", "training"])
def test_every_config_key_is_described(name: str) -> None:
    tree = ast.parse((ROOT / "configs" / f"{name}.py").read_text())
    for group in [node for node in tree.body if isinstance(node, ast.ClassDef)]:
        assert ast.get_docstring(group), group.name
        for key, after in zip(group.body, [*group.body[1:], None], strict=True):
            if not isinstance(key, ast.AnnAssign) or ast.unparse(key.annotation).endswith("Config"):
                continue  # a group of keys has a docstring of its own
            described = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assert described, f"{group.name}.{ast.unparse(key.target)} has no docstring"
