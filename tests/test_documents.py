"""Every command and code block in the README, the pages and the notebook runs as written, at a small scale."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from configs.errors import InputError
from fl_clients.backbone.builtin import fetch
from simulations.cli.main import app
from simulations.experiments.sweep.spec import read_axes
from tests.conftest import write_lamp

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXPERIMENTS = ("cold-start", "compare", "reference", "speed")
"""Pages with long commands; another file runs them, so that two workers share the work."""
REPRODUCED = ("reference", "cold-start", "layers-and-ranks", "profile-to-peft")
"""Pages whose commands under results/reference a test runs whole, over the committed records (test_reference.py)."""
TINY = ["backbone=tiny", "sites=[1,2]", "rank.shared=4", "rank.private=2", "rounds=1", "personal.epochs=1"]
SMALL = [*TINY, "engine=inline", "users.synthetic.history=4", "users.synthetic.queries=2"]
FEW = ["users.collective=12", "users.target=3", "cohort=3"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_rates: None) -> Path:
    """Return a folder to run commands in, with the files that the pages assume."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.syspath_prepend(str(tmp_path))
    tweet = "Paraphrase the following tweet without any explanation before or after it: It is late."
    records = [{"id": str(n), "input": tweet, "profile": [{"id": "h", "text": "so late!"}]} for n in range(150)]
    (tmp_path / "lamp" / "tweets").mkdir(parents=True)
    golds = [{"id": str(n), "output": f"late {n}"} for n in range(150)]
    write_lamp(tmp_path / "lamp" / "tweets" / "dev", records, golds, "LaMP_7")
    (tmp_path / "path" / "to" / "any").mkdir(parents=True)
    (tmp_path / "path" / "to" / "any" / "decoder").symlink_to(fetch("tiny"))
    return tmp_path


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    return [shlex.split(line) for block in blocks(page, "sh") for line in block.splitlines() if line]


def test_the_pages_exist_and_have_commands() -> None:
    assert {page.stem for page in PAGES} >= {"README", "first-run", "your-data", "your-method", "reading-curves"}
    assert sum(len(commands(page)) for page in PAGES) >= 30


def smaller(words: list[str]) -> list[str]:
    """Return the same command with the tiny backbone, few users, one round and one seed."""
    if any(re.match("configs/experiments/(reference|steering|paper|private|ablations)", word) for word in words):
        words = [*words, "users.collective_history=3"]
    if "configs/experiments/profiles.toml" in words:
        words = [*words, "sites=[1,2]"]  # the tiny backbone has four blocks
    if "configs/experiments/profiles-ratings.toml" in words:
        words = [*words, "sites=[1,2]", "users.source=synthetic"]
    if words[0] == "simulate" or (words[0] == "analyze" and "configs/experiments/tiny.toml" not in words):
        return words + SMALL + FEW
    if words[0] == "compare" and any(re.search(r"-seed\d", word) for word in words):
        # Run records are compared as they are, and only seed 0 was run.
        return [word for word in words if not word.endswith(("-seed1", "-seed2"))]
    if words[0] in ("compare", "tune"):
        if "--seeds" in words:
            place = words.index("--seeds")
            words = words[:place] + words[place + 2 :]
        few = ["--held-out", "2"] if words[0] == "tune" and "--held-out" not in words else []
        # LoFiT chooses heads in one round and trains them in another.
        rounds = ["rounds=2"] if "lofit" in words else []
        return [*words, *SMALL, *FEW, *rounds, *few, "--seeds", "0"]
    if words[0] == "sweep":
        toml = Path(words[words.index("--config") + 1])
        varied, _ = read_axes([word for word in words[1:] if "=" in word], toml)
        fewer = ["sites=[0],[1]"] if "sites" in varied else []  # the tiny backbone has four blocks
        return words + fewer + [word for word in (*SMALL, *FEW) if word.partition("=")[0] not in varied]
    if words[0] == "cold-start":
        fewer = {"10,100": "4,12", "5": "2", "0,5,all": "2,all", "0,5,20,all": "2,3,all"}
        if "tweet_paraphrase" in words:  # the tiny backbone never ends an answer
            fewer["configs/variants/0.2/perfit.toml,oppu,fdlora,lora-c"] = "perfit,lora-c"
        return [fewer.get(word, word) for word in words] + [*SMALL, *FEW[1:], "--seeds", "0"]
    if words[0] == "ability":
        return [*words, "--users", "1", "--limit", "3"]
    if words[0] == "bench":
        return [*words, "--backbone", "tiny", "--sites", "1", "--repeats", "1", "--users", "0", "--seconds", "0.2"]
    if words[0] == "deploy":
        return words + SMALL
    if words[0] == "params" and "--paper" not in words:
        return words + [word for word in TINY if word.partition("=")[0] in ("backbone", "sites", "rank.shared")]
    return words


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem not in EXPERIMENTS], ids=lambda page: page.stem)
def test_a_pages_commands_and_code_run(page: Path, checkout: Path) -> None:
    run_page(page, checkout)


def run_page(page: Path, checkout: Path) -> None:
    """Run every command and code block of a page."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for block in [*blocks(page, "python"), *blocks(page, "toml")]:
        if named := re.match(r"# file: (\S+)\n", block):
            (checkout / named[1]).write_text(block)
    for program, *words in commands(page):
        if program == "make":
            assert words[0] in targets
            if words[0] == "demo":  # other commands of the page use this run
                run(["simulate", "configs/experiments/demo.toml", "--name", "demo"], page)
            continue
        assert program in (".venv/bin/fedperfit", "fedperfit")
        if words[:2] == ["data", "fetch"]:
            continue  # needs LaMP's server; tests/fl_clients/lamp/test_fetch.py uses a local one
        if words == ["bench"] and page.stem != "speed":
            continue  # once is enough
        if page.stem in REPRODUCED and "results/reference" in words and not is_on_users_of_ones_own(words):
            continue
        if "--resume" in words:
            with pytest.raises(InputError, match=r"this run has completed"):  # tests/simulations/run/test_resume.py
                CliRunner().invoke(app, words, catch_exceptions=False)
            continue
        run(words, page)
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {})


def is_on_users_of_ones_own(words: list[str]) -> bool:
    """Tell whether a command needs people's texts, which are not in the repository."""
    return any(f"configs/experiments/{name}.toml" in words for name in ("tweets", "profiles-ratings"))


def run(words: list[str], page: Path) -> None:
    done = CliRunner().invoke(app, smaller(words), catch_exceptions=False)
    assert done.exit_code == 0, f"{page.name}: {shlex.join(words)}: {done.output}"


def test_the_notebook_runs(checkout: Path) -> None:
    notebook = json.loads((ROOT / "examples" / "first_run.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    known: dict[str, object] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"first_run.ipynb, cell {number}", "exec"), known)
    assert (checkout / "results" / "compared" / "compare.json").is_file()
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "outputs depend on the machine; clear them"


@pytest.mark.parametrize("name", ["compare", "own_method", "own_data"])
def test_an_example_runs(
    name: str, checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    said = {
        "compare": "oppu: accuracy ",
        # A of q and v: 4·16 each in four blocks, B 4·16 and 4·8.
        "own_method": f"half-way: {4 * 4 * (16 + 16 + 16 + 8)} shared numbers",
        "own_data": "4 people asked: {'accuracy': ",
    }
    assert said[name] in capsys.readouterr().out
