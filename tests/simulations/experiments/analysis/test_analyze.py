"""An analysis through a whole federation: the server's vectors are the clients', controls, trained runs, bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from configs.errors import InputError
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.user_table import open_user
from fl_clients.tools import Tools
from fl_server.record.folder import RunFolder
from simulations.experiments.analysis.numbers import Decomposition
from simulations.experiments.analysis.run import analyze
from simulations.run.simulate import simulate
from strategies.delta_vectors import DeltaVectors
from tests.conftest import TINY, tiny_config

pytestmark = pytest.mark.integration


def quiet(_text: str) -> None:
    """Print nothing."""


def test_the_servers_decomposition_is_that_of_the_clients_own_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    central: list[torch.Tensor] = []
    genuine = DeltaVectors._vectors

    def kept(self: DeltaVectors, client: Any) -> tuple[torch.Tensor, torch.Tensor]:
        found = genuine(self, client)
        central.append(found[0])
        return found

    monkeypatch.setattr(DeltaVectors, "_vectors", kept)
    found = analyze(None, TINY, "a", tmp_path, log=quiet)
    # Six collective users and three targets; all have eight items.
    assert (found.users, found.left_out, len(central)) == (9, 0, 9)
    for place, site in enumerate(found.sites):
        parts = Decomposition.of(torch.stack(central)[:, place].numpy())
        assert site.ranks == {f"{share:.0%}": parts.rank(share) for share in (0.8, 0.85, 0.9, 0.95)}
        assert site.mean_share == pytest.approx(parts.mean_share, abs=1e-5)
        assert len(site.control) == 5
        assert -1 <= site.control_cosine <= 1
        np.testing.assert_allclose(site.coordinates_mean, parts.coordinates().mean(axis=0), atol=1e-5)
    written = json.loads((tmp_path / "a" / "analysis.json").read_text())
    assert written["sites"][0]["ranks"] == found.sites[0].ranks
    assert {path.name for path in (tmp_path / "a").glob("*.png")} == {"users.png", "control.png", "sites.png"}
    ids = pd.read_parquet(next((tmp_path / "a").glob("*/users.parquet"))).user_id
    assert set(found.nearest + found.farthest) <= set(ids)


def test_a_files_seed_is_the_analysis_seed(tmp_path: Path) -> None:
    file = tmp_path / "seeded.toml"
    file.write_text("seed = 3\n")
    analyze(file, [word for word in TINY if not word.startswith("seed")], "a", tmp_path, log=quiet)
    assert (tmp_path / "a" / "delta-seed3" / "run.json").is_file()


def test_delta_is_the_mean_difference_at_the_last_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def counted(_self: Tools, texts: list[str], _place: str) -> torch.Tensor:
        """The state is the text's length at every block."""
        asked.append(list(texts))
        return torch.tensor([float(len(text)) for text in texts])[:, None, None].expand(-1, 4, 16)

    monkeypatch.setattr(Tools, "states", counted)
    simulate(tiny_config("method=delta", "settings.questions=2", "settings.k=1"), "d", tmp_path)
    texts = asked[0]
    # Two questions, each bare, after an item, after made-up words.
    assert len(texts) == 6
    added = [len(texts[2 + place]) - len(texts[place]) for place in (0, 1)]
    shared = load_file(tmp_path / "d" / "shared.safetensors")
    assert shared["server_delta.0"].flatten().tolist() == [sum(added) / 2] * 32
    assert all(texts[2 + place].endswith(f"\n\n{texts[place]}") for place in (0, 1))
    own, made_up = (len(texts[place].split("\n\n")[0].split()) for place in (2, 4))
    assert own == made_up


def test_bytes_are_two_vectors_for_each_site_up_once(tmp_path: Path, sent_messages: list[bytes]) -> None:
    simulate(tiny_config("method=delta"), "d", tmp_path)
    ledger = pd.read_parquet(tmp_path / "d" / "ledger.parquet")
    up = ledger[ledger.direction == "up"].groupby("phase").payload_bytes.sum()
    assert (up["train"], up["introduce"]) == (6 * 4 * 2 * 2 * 16, 3 * 4 * 2 * 2 * 16)
    assert b"Tag:" not in b"".join(sent_messages)


def test_clipped_vectors_are_no_longer_than_the_limit(tmp_path: Path) -> None:
    simulate(tiny_config("method=delta"), "free", tmp_path)
    simulate(tiny_config("method=delta", "settings.clip=0.001"), "clipped", tmp_path)
    free, clipped = (load_file(tmp_path / name / "shared.safetensors") for name in ("free", "clipped"))
    for name, value in free.items():
        norms = value.norm(dim=1, keepdim=True)
        torch.testing.assert_close(clipped[name], value * (0.001 / norms).clamp(max=1))


def test_users_without_two_items_are_left_out_and_counted(tmp_path: Path) -> None:
    found = analyze(None, [*TINY, "users.target_history=1"], "a", tmp_path, log=quiet)
    assert (found.users, found.left_out) == (6, 3)
    with pytest.raises(InputError, match="0 users have two items or more: expected at least 3"):
        analyze(None, [*TINY, "users.synthetic.history=0", "users.synthetic.queries=1"], "b", tmp_path, log=quiet)


def test_a_trained_run_is_compared_with_the_collective_direction(tmp_path: Path) -> None:
    simulate(tiny_config("users.target=6"), "perfit", tmp_path)
    words = [*TINY, "users.target=6"]
    found = analyze(None, words, "a", tmp_path, tmp_path / "perfit", log=quiet)
    assert [(each.site, each.rank, each.by_chance) for each in found.trained] == [(1, 4, 0.25), (2, 4, 0.25)]
    assert all(0 <= each.share_in_span <= 1 for each in found.trained)
    assert found.taste is not None
    assert found.taste.users == 6
    with pytest.raises(InputError, match=r"it has none of the sites \[3\]; set sites to its own"):
        analyze(None, [*words, "sites=[3]"], "b", tmp_path, tmp_path / "perfit", log=quiet)
    with pytest.raises(InputError, match=r"its seed is \d+; expected 5"):
        analyze(None, [*words, "seed=5"], "b", tmp_path, tmp_path / "perfit", log=quiet)
    with pytest.raises(InputError, match=r"its users\.synthetic\.deviation is 1\.0; expected 3\.0"):
        analyze(None, [*words, "users.synthetic.deviation=3"], "b", tmp_path, tmp_path / "perfit", log=quiet)
    with pytest.raises(InputError, match="is a run record; choose another name"):
        analyze(None, words, "perfit", tmp_path, log=quiet)
    (tmp_path / "perfit" / "shared.safetensors").unlink()
    with pytest.raises(InputError, match=r"shared\.safetensors: not readable"):
        analyze(None, words, "b", tmp_path, tmp_path / "perfit", log=quiet)
    assert not (tmp_path / "b" / "delta-seed0").exists()
    simulate(tiny_config("method=lora-p"), "other", tmp_path)
    with pytest.raises(InputError, match="expected a completed run of perfit"):
        analyze(None, words, "c", tmp_path, tmp_path / "other", log=quiet)


def test_analyses_of_two_tasks_are_compared(tmp_path: Path) -> None:
    news = analyze(None, [*TINY, "task=news_categorization"], "news", tmp_path, log=quiet)
    assert news.together is None
    found = analyze(None, TINY, "movies", tmp_path, others=["news"], log=quiet).together
    assert found is not None
    assert (found.names, found.tasks) == (["movies", "news"], ["movie_tagging", "news_categorization"])
    assert (tmp_path / "movies" / "together.svg").is_file()
    middle = []
    for name in ("movies", "news"):
        shared = load_file(tmp_path / name / "delta-seed0" / "shared.safetensors")
        middle.append(torch.stack([value for key, value in shared.items() if "delta" in key])[:, 1].double().mean(0))
    expected = torch.cosine_similarity(middle[0], middle[1], dim=0).item()
    assert found.cosines[0][1] == found.cosines[1][0] == pytest.approx(expected, abs=1e-6)
    # The same run is reused from the folder beside it.
    again = analyze(None, TINY, "again", tmp_path, others=["news"], log=quiet)
    assert again.run == "../movies/delta-seed0"
    assert again.together is not None
    assert again.together.cosines == found.cosines
    assert analyze(None, [*TINY, "task=news_categorization"], "third", tmp_path, others=["again"], log=quiet).together
    with pytest.raises(InputError, match=r"it has tiny, sites \[1, 2\]; expected tiny, sites \[1\]"):
        analyze(None, [*TINY, "sites=[1]"], "one", tmp_path, others=["news"], log=quiet)
    assert not (tmp_path / "one").exists()
    with pytest.raises(InputError, match="cannot be compared with itself"):
        analyze(None, TINY, "movies", tmp_path, others=["./movies"], log=quiet)
    (tmp_path / "news" / "delta-seed0" / "shared.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="expected a completed analysis"):
        analyze(None, TINY, "movies", tmp_path, others=["missing"], log=quiet)
    with pytest.raises(InputError, match="news: expected a completed analysis"):
        analyze(None, TINY, "movies", tmp_path, others=["news"], log=quiet)


def test_named_users_items_are_written_for_the_analyst_only(tmp_path: Path) -> None:
    found = analyze(None, TINY, "a", tmp_path, named=1, texts=True, log=quiet)
    file = tmp_path / "a" / "private" / "texts.txt"
    assert (file.stat().st_mode & 0o077, file.parent.stat().st_mode & 0o077) == (0, 0)
    lines = file.read_text().splitlines()
    # Three users, each with a heading and its last three items on two lines.
    assert len(lines) == 3 * 7
    assert lines[0] == f"nearest: {found.nearest[0]}"
    run = RunFolder(tmp_path / "a" / "delta-seed0")
    partition = run.users(["user_id"])["user_id"].to_pylist().index(found.nearest[0])
    assert lines[6] == f"    -> {open_user(build_table(run.config).folder, partition).history[-1].target}"
    assert "texts" not in (tmp_path / "a" / "analysis.json").read_text()


@pytest.mark.parametrize(
    ("word", "message"),
    [("sites=[9]", "the backbone has blocks 0 to 3"), ("settings.k=0", "settings.k=0: expected at least 1")],
)
def test_mistakes_are_named_before_any_work(word: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        analyze(None, [*TINY, word], "a", tmp_path, log=quiet)
    assert not list(tmp_path.rglob("run.json"))
