"""`engine = "vectorized"`: the numbers of `inline`, with several clients in one pass."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from configs.errors import InputError
from fl_clients import side_by_side
from fl_clients.paused import Client
from simulations.experiments.comparable import first_difference
from simulations.run.simulate import simulate
from tests.conftest import movie, tiny_config, write_lamp

integration = pytest.mark.integration
FIVE = ("users.collective=5", "cohort=5", "clients_per_pass=3")


def run(engine: str, results: Path, *words: str) -> Path:
    simulate(tiny_config(f"engine={engine}", *FIVE, *words), engine, results)
    return results / engine


def assert_alike(ours: Path, theirs: Path) -> None:
    one, other = (pd.read_parquet(folder / "clients.parquet") for folder in (ours, theirs))
    columns = ["phase", "user", "round", "status", "examples", "steps"]
    pd.testing.assert_frame_equal(one[columns], other[columns])
    for column in ("loss_first", "loss_last"):
        pd.testing.assert_series_equal(one[column], other[column], atol=1e-5, rtol=0)
    ours_says, theirs_says = (
        sorted((folder / "predictions.jsonl").read_text().splitlines()) for folder in (ours, theirs)
    )
    assert ours_says == theirs_says
    files = sorted(path.relative_to(ours) for path in ours.rglob("*.safetensors"))
    assert files
    for file in files:
        mine, reference = load_file(ours / file), load_file(theirs / file)
        for name, value in mine.items():
            assert float((value - reference[name]).abs().max()) < 1e-4, (file, name)


@integration
@pytest.mark.parametrize("method", ["perfit", "oppu", "fdlora", "flora", "fedex-lora", "lora-reft", "fed-sb", "p2p"])
def test_every_kind_of_adapter_trains_as_inline(method: str, finished: Callable[..., Path], tmp_path: Path) -> None:
    words = [f"method={method}"]
    if "lora" in method or method in ("oppu", "fed-sb"):
        words += ["settings.rank=2", "settings.alpha=4"]
    assert_alike(run("vectorized", tmp_path, *words), finished("engine=inline", *FIVE, *words))


@integration
def test_users_with_different_numbers_of_items(tmp_path: Path) -> None:
    golds = [{"id": str(n), "output": "comedy"} for n in range(9)]
    users = write_lamp(tmp_path / "lamp", [movie(str(n), f"Film {n}.", history=n + 2) for n in range(9)], golds)
    words = (f"users.source={users}", "local.batch_size=2", "cohort=4")
    assert_alike(run("vectorized", tmp_path, *words), run("inline", tmp_path, *words))


@integration
def test_codecs_moments_and_held_out_items_work_in_it(tmp_path: Path) -> None:
    words = ("wire.up=int8", "local.keep_moments=true", "personal.held_out=0.25", "evaluate.every=1")
    assert_alike(run("vectorized", tmp_path, *words), run("inline", tmp_path, *words))


@integration
@pytest.mark.parametrize(
    "words",
    [("task=news_headline", "decoding=paper"), ("evaluate.batch_size=3",), ("method=oppu", "task=news_headline")],
)
def test_questions_of_several_users_are_answered_together(words: tuple[str, ...], tmp_path: Path) -> None:
    assert_alike(run("vectorized", tmp_path, *words), run("inline", tmp_path, *words))


@integration
def test_a_pass_that_fails_is_tried_for_one_client_at_a_time(
    finished: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = finished("engine=inline", *FIVE, "method=perfit")
    original = side_by_side._Group._losses
    sizes: list[int] = []

    def small_memory(self: object, clients: Sequence[Client]) -> list[float]:
        sizes.append(len(clients))
        if len(clients) > 1:
            raise MemoryError("too many clients")
        return original(self, clients)  # type: ignore[arg-type]

    monkeypatch.setattr(side_by_side._Group, "_losses", small_memory)
    vectorized = run("vectorized", tmp_path)
    assert {1, 3} <= {*sizes}
    assert_alike(vectorized, inline)


@integration
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simulations.run.simulate import resume

    whole = run("vectorized", tmp_path / "whole")
    calls = 0
    original = side_by_side._Group._losses

    def interrupted(self: object, clients: object) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return original(self, clients)  # type: ignore[arg-type]

    monkeypatch.setattr(side_by_side._Group, "_losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("vectorized", tmp_path / "part")
    monkeypatch.undo()
    resume("vectorized", tmp_path / "part")
    for file in ("shared.safetensors", "private/5.safetensors"):
        assert (whole / file).read_bytes() == (tmp_path / "part" / "vectorized" / file).read_bytes()


def test_a_vectorized_run_is_not_reused_for_an_inline_one() -> None:
    vectorized, inline, ray = (tiny_config(f"engine={engine}") for engine in ("vectorized", "inline", "ray"))
    assert first_difference(inline, ray) is None
    assert first_difference(tiny_config("engine=inline", "clients_per_pass=2"), ray) is None
    assert first_difference(vectorized, inline) == "clients_per_pass: 16 vs. 1"
    other = tiny_config("engine=vectorized", "clients_per_pass=2")
    assert first_difference(vectorized, other) == "clients_per_pass: 16 vs. 2"


@pytest.mark.parametrize("clients", [0, 65])
def test_passes_of_no_client_or_of_more_than_are_asked_at_once_are_refused(clients: int) -> None:
    with pytest.raises(InputError, match="clients_per_pass"):
        tiny_config("engine=vectorized", f"clients_per_pass={clients}")
