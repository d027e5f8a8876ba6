"""The command line: exit status, one sentence per mistake, readable tables."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fedperfit
from fl_server.record.schema import read_run
from simulations.cli import main as command
from simulations.display.tables import human_bytes
from simulations.inspection import dataset as inspect
from tests.conftest import TINY, movie, write_lamp

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _keep_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fedperfit", *words])
    try:
        command.main()
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0


def test_simulate_prints_quality_bytes_and_the_records_folder(
    drawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "simulate", *TINY, "--name", "mine", "--results", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    for words in (
        "bare backbone",
        "collective, after stage 1",
        "personalised, after stage 2",
        "3 target users and ",
        "oracle, user known",
        "per client and round",
    ):
        assert words in printed
    assert "round 2 of 2: loss" in printed
    assert "\x1b[" not in printed
    assert sorted(path.name for path in (tmp_path / "mine" / "plots").iterdir()) == [
        f"{name}.{suffix}" for name in ("bytes", "quality") for suffix in ("pdf", "png", "svg")
    ]
    assert run(monkeypatch, "runs", "show", "mine", "--users", "--results", str(tmp_path)) == 0
    listed = capsys.readouterr().out
    assert all(f"  {number}  {user}  " in listed for number, user in ((6, "s0"), (7, "s1"), (8, "s2")))
    record = read_run(tmp_path / "mine")
    assert f"{record.metrics['accuracy']:.3f}" in printed
    assert human_bytes(record.bytes.up) in printed


def test_the_command_line_imports_no_heavy_packages() -> None:
    heavy = "{'torch', 'transformers', 'ray', 'pandas', 'matplotlib'}"
    code = f"import sys, simulations.cli.main; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_every_public_name_can_be_imported() -> None:
    assert sorted(fedperfit._EXPORTS) == sorted(fedperfit.__all__)
    assert all(getattr(fedperfit, name).__name__ == name for name in fedperfit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        getattr(fedperfit, "simulat")  # noqa: B009 - a type checker would report plain attribute access


def test_quiet_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "simulate", *TINY, "rounds=1", "--quiet", "--results", str(tmp_path)) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simulat"], "No such command 'simulat'. Did you mean 'simulate'?\n"),
        (["params", "task=lamp_4"], "unknown task 'lamp_4'"),
        (["params", "--paper", "seed=1"], "leave out the config and overrides"),
        (["data", "inspect", ".", "--task", "movie_tagging", "--backbone", "./none"], "no LaMP users here"),
        (["simulate", "rouns=3"], "did you mean 'rounds'?"),
        (["simulate", "users=3"], "users=3: expected a group of keys (users.collective, users.target, users.reserved"),
        (["simulate", "a.toml", "b.toml"], "expected at most one config file"),
        (["simulate", "missing.toml"], "missing.toml: no such config file"),
        (["simulate", "--nonsense"], "No such option"),
        (["simulate", "--resume", "nope", "--results", "."], "nope: no run record of that name in ."),
        (["simulate", *TINY, "sites=[9]"], "blocks 0 to 3"),
        (["simulate", *TINY, "--results", "/proc/nowhere"], "--results"),
        (["backbone", "fetch", "gpt-5"], "'gpt-5' is not built in"),
        (["data", "inspect", "/no/such", "--task", "movie_tagging"], "no such file or folder"),
        (["data", "synth", "--task", "tweets", "--users", "3", "--out", "x"], "tweet_paraphrase"),
        (["data", "synth", "--task", "movie_tagging", "--users", "0", "--out", "x"], "0"),
    ],
)
def test_mistakes_are_one_sentence_and_status_2(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1


def test_a_completed_run_of_an_experiment_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--results", str(tmp_path / "mine"))
    assert run(monkeypatch, "simulate", *TINY, "rounds=1", "--name", "one", "--quiet", *where) == 0
    where = ("--results", str(tmp_path))
    # Without its plots, a completed run is only finished.
    (tmp_path / "mine" / "one" / "plots").rmdir()
    assert run(monkeypatch, "simulate", "--resume", "mine/one", *where) == 0
    assert f"run record: {tmp_path / 'mine' / 'one'} " in capsys.readouterr().out
    assert run(monkeypatch, "simulate", "--resume", "mine/one", *where) == 2
    assert capsys.readouterr().err == "fedperfit: --resume mine/one: this run has completed\n"


def test_data_synth_writes_what_inspect_and_simulate_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "users")
    assert run(monkeypatch, "data", "synth", "--task", "movie_tagging", "--users", "9", "--out", out) == 0
    assert run(monkeypatch, "data", "inspect", out) == 0
    printed = capsys.readouterr().out
    assert "144" in printed
    assert "LaMP's official files" in printed
    assert run(monkeypatch, "data", "synth", "--task", "movie_tagging", "--users", "9", "--out", out) == 2
    assert run(monkeypatch, "simulate", *TINY, "rounds=1", f"users.source={out}", "--results", str(tmp_path)) == 0


def test_inspect_counts_tokens_with_a_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lamp(tmp_path, [movie("1", "A fight.", history=4)], [{"id": "1", "output": "comedy"}])
    monkeypatch.setattr(inspect, "_SAMPLE", 3)
    words = ("data", "inspect", str(tmp_path), "--task", "movie_tagging", "--backbone", "tiny")
    assert run(monkeypatch, *words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    # One byte per token: "Movie: Joke 0 of 1.\nTag: " is 25, "comedy" with the end token 7.
    assert "tokens of an answer of 3 of 5 texts" in printed
    assert "min 7, median 7, p90 7, max 7" in printed
    assert "longer than max_tokens=256" in printed


def test_inspect_counts_leaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lamp(tmp_path, [movie("1", "Joke 0 of 1.")], [{"id": "1", "output": "comedy"}])
    assert run(monkeypatch, "data", "inspect", str(tmp_path), "--task", "movie_tagging") == 0
    assert "left out: items that hold an answer" in capsys.readouterr().out


def test_bytes_are_readable() -> None:
    assert [human_bytes(number) for number in (0, 999, 1234, 5_600_000, 7.8e9)] == [
        "0 B",
        "999 B",
        "1.23 kB",
        "5.60 MB",
        "7.80 GB",
    ]


NEWCOMERS = [word for word in TINY if not word.startswith("users.collective")]


@pytest.mark.parametrize(
    "words",
    [
        ("simulate", *TINY, "rounds=1", "--name", "json"),
        ("compare", "perfit", "reft-c", *TINY, "rounds=1", "--seeds", "0", "--name", "both"),
        ("tune", "lora-p", *TINY, "--held-out", "2"),
        ("cold-start", *NEWCOMERS, "rounds=1", "--collective", "3,6", "--methods", "perfit", "--seeds", "0"),
        ("runs",),
        ("params", *TINY),
        ("params", "--paper"),
        ("backbone", "list"),
    ],
    ids=lambda words: "-".join(words[:2]) if words[0] in ("params", "backbone") else words[0],
)
@pytest.mark.usefixtures("two_rates")
def test_json_is_the_only_output(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = () if words[0] in ("params", "backbone") else ("--results", str(tmp_path))
    assert run(monkeypatch, *words, "--json", *results) == 0
    content = json.loads(capsys.readouterr().out)
    if words[0] == "simulate":
        assert content["metrics"] == read_run(tmp_path / "json").metrics
    if words[0] == "compare":
        assert content == json.loads((tmp_path / "both" / "compare.json").read_text())
    if words[:2] == ("params", "--paper"):
        assert round(content["mean_reduction"], 2) == 92.92


def test_inspect_as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_lamp(tmp_path / "lamp", [movie("1"), movie("2")], [{"id": n, "output": "comedy"} for n in "12"])
    words = ("data", "inspect", str(source), "--task", "movie_tagging", "--backbone", "tiny", "--json")
    assert run(monkeypatch, *words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["users"], found["questions"], found["labels"]["comedy"]["golds"]) == (2, 2, 2)
    assert found["tokens"]["counted"] == found["tokens"]["texts"]
