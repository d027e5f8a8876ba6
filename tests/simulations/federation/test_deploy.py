"""What `fedperfit deploy` writes and refuses; tests/e2e/test_deployment.py starts a deployment."""

import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from configs.errors import InputError
from configs.load import parse_resolved
from simulations.cli.main import app
from simulations.federation.deploy import deploy
from tests.conftest import TINY, tiny_config

pytestmark = pytest.mark.integration


def test_the_server_has_no_user_ids_and_keys_are_private(tmp_path: Path, cache: Path) -> None:
    words = ["users.select=listed", 'users.collective_ids=["s1","s2"]', 'users.target_ids=["s3"]', "cohort=2"]
    words += ["users.source=" + str(users(tmp_path))]
    chosen = [word for word in TINY if not word.startswith(("users.", "cohort"))]
    done = CliRunner().invoke(app, ["deploy", str(tmp_path / "out"), *chosen, *words], catch_exceptions=False)
    assert "0 to 2" in done.output
    server = tmp_path / "out" / "server"
    for path in server.rglob("*"):
        if path.is_file():
            text = path.read_text(errors="replace")
            assert not any(f"{quote}{name}{quote}" in text for name in ("s1", "s2", "s3") for quote in "'\""), path
            # The folder may be moved elsewhere.
            assert str(tmp_path) not in text, path
    private = [server / "server.key", *(tmp_path / "out" / "nodes" / str(n) / "node.key" for n in range(3))]
    assert {path.stat().st_mode & 0o777 for path in private} == {0o600}
    authority, certificate = (
        x509.load_pem_x509_certificate((server / name).read_bytes()) for name in ("ca.crt", "server.crt")
    )
    certificate.verify_directly_issued_by(authority)
    assert not list((tmp_path / "out").rglob("ca.key"))


def users(folder: Path) -> Path:
    out = folder / "made"
    words = ["data", "synth", "--task", "movie_tagging", "--users", "5", "--out", str(out)]
    CliRunner().invoke(app, words, catch_exceptions=False)
    return out


def test_the_deployed_config_is_the_runs(tmp_path: Path, cache: Path) -> None:
    folder = deploy(tiny_config(), tmp_path / "out", "localhost", 9092)
    project = tomllib.loads((folder / "server" / "app" / "pyproject.toml").read_text())
    text = project["tool"]["flwr"]["app"]["config"]["config"]
    deployed, original = parse_resolved(text), tiny_config()
    assert deployed.users.source == "devices"
    assert deployed.method_values() == original.method_values()
    assert (deployed.local, deployed.personal, deployed.seed) == (original.local, original.personal, original.seed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "a b; touch x"], "expected a name or an IPv4 address"),
        (["--host", "::1"], "expected a name or an IPv4 address"),
        (["--host", "münchen.de"], "expected a name or an IPv4 address"),
        (["--port", "65530"], "nodes use the 9 ports after it"),
        (["devices.preset=phones"], "a real federation has no simulated devices"),
        (["users.collective=1"], "cohort=3 is more than users.collective=1"),
    ],
)
def test_invalid_arguments_are_refused_and_write_nothing(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(app, ["deploy", str(tmp_path / "out"), *TINY, *words], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="expected a new or empty folder"):
        deploy(tiny_config(), tmp_path, "localhost", 9092)
