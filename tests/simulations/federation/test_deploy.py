"""What `fedperfit deploy` writes and refuses; tests/e2e/test_deployment.py starts a deployment."""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from configs.errors import InputError
from configs.load import parse_resolved
from configs.paths import make_cache
from fl_clients.lamp.select_users import build_table
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


def test_a_path_that_the_scripts_cannot_quote_is_refused(tmp_path: Path, cache: Path) -> None:
    for name in ('a"b', "a\\b", "a$b"):
        with pytest.raises(InputError, match="the scripts cannot quote this path"):
            deploy(tiny_config(), tmp_path / name, "localhost", 9092)
        assert not (tmp_path / name).exists()


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
        (["--bind", "0.0.0.0; x"], "expected a name or an IPv4 address"),
        (["--port", "65530"], "nodes use the 9 ports after it"),
        (["devices.preset=phones"], "a real federation has no simulated devices"),
        (["start_from=results/other"], "start_from: a real federation trains its own collective part"),
        (["users.collective=1"], "cohort=3 is more than users.collective=1"),
        # A simulation can keep this promise: nobody knows which users are drawn.
        (
            ["privacy.kind=central", "privacy.noise_multiplier=2", "privacy.target_epsilon=4", "rounds=1"],
            "the first round would exceed it",
        ),
    ],
)
def test_invalid_arguments_are_refused_and_write_nothing(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(app, ["deploy", str(tmp_path / "out"), *TINY, *words], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "listens", "warned"),
    [
        ([], "127.0.0.1", False),
        (["--host", "127.0.0.2"], "127.0.0.2", False),
        (["--host", "LOCALHOST"], "LOCALHOST", False),
        (["--host", "10.0.0.5"], "10.0.0.5", True),
        (["--host", "fed.example.org", "--bind", "127.0.0.1"], "127.0.0.1", False),
        (["--host", "fed.example.org", "--bind", "0.0.0.0"], "0.0.0.0", True),
    ],
)
def test_the_server_listens_where_it_was_told_to(
    words: list[str], listens: str, warned: bool, tmp_path: Path, cache: Path
) -> None:
    done = CliRunner().invoke(app, ["deploy", str(tmp_path / "out"), *TINY, *words], catch_exceptions=False)
    script = (tmp_path / "out" / "server" / "start.sh").read_text()
    assert f'--host "${{SUPERLINK_HOST:-{listens}}}" --port "${{SUPERLINK_PORT:-9092}}"' in script
    assert (f"warning: the server listens on {listens}" in done.output) == warned


def test_keys_and_users_data_stay_out_of_git(tmp_path: Path, cache: Path) -> None:
    folder = deploy(tiny_config(), tmp_path / "out", "localhost", 9092)
    assert (folder / ".gitignore").read_text() == "*\n"
    assert (folder / "nodes" / "0" / "user" / ".gitignore").read_text() == "*\n"


def test_the_operators_cache_keeps_only_tables_that_were_there(tmp_path: Path, cache: Path) -> None:
    def tables() -> set[Path]:  # others may be writing theirs beside it
        return {path for path in make_cache("users").iterdir() if not path.name.startswith("tmp")}

    before = tables()
    config = tiny_config("seed=77001")
    deploy(config, tmp_path / "first", "localhost", 9092)
    assert tables() == before
    table = build_table(config).folder
    deploy(config, tmp_path / "second", "localhost", 9092)
    assert table.is_dir()


FLWR = """#!/bin/sh
case "$1" in
supernode) {register} ;;
run) {run} ;;
esac
"""


REGISTERED = 'echo \'{"success": true, "node-id": 18446744073709551557}\''
RAN = """mkdir -p results/run-2; echo '{{ "status": "{}" }}' > results/run-2/run.json"""


@pytest.mark.parametrize(
    ("register", "run", "status", "message"),
    [
        (REGISTERED, RAN.format("completed"), 0, ""),
        (REGISTERED, RAN.format("failed"), 1, ""),
        (REGISTERED, "exit 0", 1, "this run left no record"),
        ("echo no such server; exit 1", "exit 0", 1, "0.pub cannot be registered: no such server"),
        ("exit 0", "exit 0", 1, "0.pub cannot be registered: "),
    ],
)
def test_the_script_of_a_run_fails_unless_this_run_completed(
    register: str, run: str, status: int, message: str, tmp_path: Path, cache: Path
) -> None:
    server = deploy(tiny_config(), tmp_path / "out", "localhost", 9092) / "server"
    (server / "results" / "run-1").mkdir(parents=True)
    (server / "results" / "run-1" / "run.json").write_text('{ "status": "completed" }')
    flwr = tmp_path / "bin" / "flwr"
    flwr.parent.mkdir()
    flwr.write_text(FLWR.format(register=register, run=run))
    flwr.chmod(0o755)
    path = os.pathsep.join([str(flwr.parent), os.environ["PATH"]])
    done = subprocess.run([server / "run.sh"], env={"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert message in done.stderr
    if register == REGISTERED:
        assert (server / "keys" / "0.pub.registered").read_text() == "18446744073709551557\n"


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(InputError, match="expected a new or empty folder"):
        deploy(tiny_config(), tmp_path, "localhost", 9092)
