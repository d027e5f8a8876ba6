"""Arbitrary input gives a clear error or a correct result, never any other exception."""

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.environment import FaultsConfig, RobustConfig
from configs.errors import InputError
from configs.explain import known_keys
from configs.load import load_config, read_resolved, write_config
from configs.schema import RunConfig
from fl_clients.lamp.readers import find_source
from fl_clients.lamp.tasks import find_task
from fl_server.record.reply import ClientReply, MessageSize
from fl_server.updates import Updates
from strategies.aggregation.robust import RULES
from strategies.method import Tensors
from strategies.shifts.averages import MeanAverage, ShiftAggregator
from strategies.wire import SHARED, TASK, ClientReport
from tests.conftest import TINY, movie

T = TypeVar("T")


def outcome(act: Callable[[], T]) -> T | InputError:
    """Return the result or the InputError; any other exception is raised."""
    try:
        return act()
    except InputError as error:
        return error


KEYS = st.sampled_from(known_keys(RunConfig)) | st.from_regex(r"[a-z._]{1,12}", fullmatch=True)
SCALARS = st.one_of(
    st.integers(-5, 2000),
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
    st.text(max_size=12),
    st.lists(st.integers(-1, 40), max_size=4),
    st.sampled_from(["all", "l7", "f7+l7", "ray", "mean", "bf16", "paper", "movie_tagging", "none", "krum"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(KEYS, SCALARS), max_size=4))
def test_a_config_is_refused_clearly_or_survives_a_round_trip(pairs: list[tuple[str, Any]]) -> None:
    overrides = [f"{key}={json.dumps(value) if not isinstance(value, str) else value}" for key, value in pairs]
    config = outcome(lambda: load_config(None, overrides))
    if isinstance(config, InputError):
        assert str(config)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.toml"
        write_config(config, path)
        assert read_resolved(path) == config


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = ["questions", "question", "profile", "item", "id", "input", "golds", "gold", "output", "tag", "description"]


def official(place: str, junk: Any) -> tuple[Any, Any]:
    questions: Any = [movie("1"), movie("2")]
    outputs: Any = {"task": "LaMP_2", "golds": [{"id": "1", "output": "comedy"}, {"id": "2", "output": "comedy"}]}
    match place:
        case "questions":
            questions = junk
        case "question":
            questions[1] = junk
        case "profile" | "id" | "input":
            questions[0][place] = junk
        case "item":
            questions[0]["profile"][1] = junk
        case "tag" | "description":
            questions[0]["profile"][0][place] = junk
        case "golds":
            outputs[place] = junk
        case "gold":
            outputs["golds"][1] = junk
        case "output":
            outputs["golds"][0][place] = junk
    return questions, outputs


def oppu(place: str, junk: Any) -> tuple[Any, Any, Any]:
    item = {"id": "a", "tag": "comedy", "description": "x"}
    others: Any = [{"user_id": "c", "profile": [item]}]
    targets: Any = [{"user_id": "t", "profile": [item], "query": [{"id": "1", "input": "a description: y"}]}]
    labels: Any = {"task": "LaMP_2", "golds": [{"id": "1", "output": "comedy"}]}
    match place:
        case "questions":
            targets = junk
        case "question":
            targets[0]["query"] = junk
        case "profile" | "id":
            others[0]["profile" if place == "profile" else "user_id"] = junk
        case "item":
            others[0]["profile"] = [junk]
        case "input":
            targets[0]["query"][0][place] = junk
        case "tag" | "description":
            others = copy.deepcopy(others)
            others[0]["profile"][0][place] = junk
        case "golds":
            labels[place] = junk
        case "gold":
            labels["golds"] = [junk]
        case "output":
            labels["golds"][0][place] = junk
    return others, targets, labels


def read_or_refuse(folder: Path) -> None:
    users = outcome(lambda: list(find_source(folder, find_task("movie_tagging")).users()))
    if isinstance(users, InputError):
        assert str(folder) in str(users)
        return
    for user in users:
        assert user.user_id
        assert all(isinstance(pair.source, str) and isinstance(pair.target, str) for pair in user.history)
        assert all(query.target for query in user.queries)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), JUNK, st.integers(0, 400))
def test_a_malformed_official_file_is_read_or_refused_by_name(place: str, junk: Any, cut: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        questions, outputs = (json.dumps(part) for part in official(place, junk))
        # Sometimes the download is truncated.
        (Path(name) / "dev_questions.json").write_text(questions[:-cut] if cut > 350 else questions)
        (Path(name) / "dev_outputs.json").write_text(outputs)
        read_or_refuse(Path(name))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PLACES), JUNK)
def test_a_malformed_oppu_file_is_read_or_refused_by_name(place: str, junk: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        files = ("user_others.json", "user_top_100_history.json", "user_top_100_history_label.json")
        for file, content in zip(files, oppu(place, junk), strict=True):
            (Path(name) / file).write_text(json.dumps(content))
        read_or_refuse(Path(name))


def state() -> Tensors:
    return {"shared_c.1.R": torch.eye(2, 4), "shared_c.1.W": torch.eye(2, 4), "shared_c.1.b": torch.zeros(2)}


VALUES: dict[str, Any] = {
    **{"examples": 5, "steps": 2, "loss_first": 1.5, "loss_last": 1.0},
    **{"wall_s": 1.0, "ended_at": 1.0, "partition_name": "cpu", "peak_memory_bytes": 1},
}
ODD = st.integers(-3, 2**62) | st.floats(allow_nan=True) | st.text(max_size=5) | st.booleans()
NAMES = st.sampled_from([*state(), "shared_c.2.R", "private_x", ""])
ARRAYS = st.builds(
    lambda shape, dtype, fill: torch.full(shape, fill).to(dtype),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.float16]),
    st.sampled_from([0.0, 1.0, -1e30, float("nan"), float("inf")]),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(NAMES, ARRAYS, max_size=3), max_size=4),
    st.dictionaries(st.sampled_from(list(VALUES)), ODD, max_size=2),
    st.sampled_from(RULES),
)
def test_no_malformed_message_corrupts_the_average(
    tmp_path: Path, changes: list[Tensors], odd: dict[str, Any], rule: str
) -> None:
    updates = Updates(
        tmp_path,
        aggregator := ShiftAggregator(state(), MeanAverage),
        FaultsConfig(),
        RobustConfig(rule=rule),  # type: ignore[arg-type]
        dict.fromkeys(range(5), 2**31),
    )
    sizes = (MessageSize(), MessageSize())
    updates.add(ClientReply(0, state(), ClientReport(**VALUES), {}))
    for user, change in enumerate(changes, 1):
        content = RecordDict()
        arrays = {name: Array.from_numpy_ndarray(value.numpy()) for name, value in (state() | change).items()}
        content.array_records[SHARED] = ArrayRecord(arrays)
        content.config_records[TASK] = ConfigRecord({**VALUES, **odd})
        updates.add(ClientReply.read(user, content, (), *sizes))
    updates.settle()
    updates.fold()
    assert updates.accepted + len(updates.rejected) == 1 + len(changes)
    result, _ = aggregator.result()
    assert result.keys() == state().keys()
    for value in result.values():
        assert torch.isfinite(value).all()
    R = result["shared_c.1.R"]
    assert float((R @ R.T - torch.eye(2)).abs().max()) <= 1e-5


@pytest.mark.parametrize("override", ["", "=", ".=1", "a..b=1", "users.=1", "seed", "seed==1", "[x]=1", "x=\x00"])
def test_malformed_overrides_are_refused(override: str) -> None:
    with pytest.raises(InputError):
        load_config(None, [*TINY, override])
