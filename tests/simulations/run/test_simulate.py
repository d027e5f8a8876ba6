"""A whole federation in this process: the record, the invariants, and the errors of a failing client."""

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from configs.errors import InputError, RunFailed
from configs.load import load_config, read_resolved
from fl_server.record.schema import RunRecord, read_run
from fl_server.record.tables import CLIENTS, LEDGER, ROUNDS
from simulations.run.simulate import simulate
from tests.conftest import TINY, movie, tiny_config, write_lamp

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, RunRecord]:
    results = tmp_path_factory.mktemp("results")
    record = simulate(tiny_config("evaluate.every=1"), "first", results)
    return results / "first", record


def rows(folder: Path, name: str) -> list[dict[str, object]]:
    return pq.read_table(folder / f"{name}.parquet").to_pylist()


def test_the_record_is_complete(run: tuple[Path, RunRecord]) -> None:
    folder, record = run
    assert record.status == "completed"
    assert read_run(folder) == record
    content = json.loads((folder / "run.json").read_text())
    assert list(content)[:4] == ["schema", "name", "status", "error"]
    assert content["schema"] == 1
    assert read_resolved(folder / "config.toml") == tiny_config("evaluate.every=1")
    for name, schema in (("rounds", ROUNDS), ("clients", CLIENTS), ("ledger", LEDGER)):
        assert pq.read_schema(folder / f"{name}.parquet").equals(schema)
    assert sorted(path.name for path in (folder / "private").iterdir()) == [f"{n}.safetensors" for n in (6, 7, 8)]
    for metrics in (record.metrics, record.metrics_collective, record.metrics_base):
        assert metrics.keys() == {"accuracy", "f1", "outside"}
    assert record.per_user["accuracy"].keys() == {"mean", "std", "p10", "p90"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".") or path.name.endswith(".tmp")]


def test_clients_and_rounds_are_recorded(run: tuple[Path, RunRecord]) -> None:
    folder, _ = run
    assert [(row["round"], row["cohort"], row["replies"], row["failures"]) for row in rows(folder, "rounds")] == [
        (1, 3, 3, 0),
        (2, 3, 3, 0),
    ]
    clients = rows(folder, "clients")
    phases = [row["phase"] for row in clients]
    # Base, then in each round a cohort of 3 and 3 targets, then 3 personalised, which also evaluates the last round.
    assert phases == (["evaluate"] * 3 + ["train"] * 3) * 2 + ["personalize"] * 3
    assert all(row["user"] < 6 for row in clients if row["phase"] == "train")
    assert all(row["status"] == "ok" and row["peak_memory_bytes"] > 0 for row in clients)


def test_predictions_cover_every_target_query_at_every_evaluation_point(run: tuple[Path, RunRecord]) -> None:
    folder, record = run
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * 4 * 3
    hits = sum(line["gold"] == line["prediction"] for line in lines if line["stage"] == "personalised")
    assert hits / 12 == pytest.approx(record.metrics["accuracy"])


def test_bytes_equal_the_closed_form(run: tuple[Path, RunRecord]) -> None:
    # docs/methods.md: βL(2r⁽¹⁾d + r⁽¹⁾) each way, with β=4, L=2, d=16, r⁽¹⁾=4.
    folder, record = run
    per_message = 4 * 2 * (2 * 4 * 16 + 4)
    totals: dict[tuple[str, str, int], int] = {}
    for row in rows(folder, "ledger"):
        key = (str(row["phase"]), str(row["direction"]), int(str(row["round"])))
        totals[key] = totals.get(key, 0) + int(str(row["payload_bytes"]))
    for number in (1, 2):
        assert totals["train", "down", number] == totals["train", "up", number] == 3 * per_message
    assert totals["personalize", "down", 2] == 3 * per_message
    assert totals["personalize", "up", 2] == totals["evaluate", "up", 1] == totals["rollcall", "up", 0] == 0
    assert record.bytes.payload_up == 2 * 3 * per_message
    assert record.params.shared * 4 == per_message


def test_private_stays_private_no_message_carries_a_private_tensor(tmp_path: Path, sent_messages: list[bytes]) -> None:
    simulate(tiny_config(), "spied", tmp_path)
    private = [t for n in (6, 7, 8) for t in load_file(tmp_path / "spied" / "private" / f"{n}.safetensors").values()]
    assert len(private) == 3 * 2 * 3
    assert len(sent_messages) > 40
    for tensor in private:
        assert not any(tensor.numpy().tobytes() in message for message in sent_messages)
    shared = load_file(tmp_path / "spied" / "shared.safetensors")
    assert all(any(value.numpy().tobytes() in message for message in sent_messages) for value in shared.values())
    assert "private" not in {row["group"] for row in rows(tmp_path / "spied", "ledger")}


def test_r_is_row_orthonormal_in_a_runs_tensors(run: tuple[Path, RunRecord]) -> None:
    folder, _ = run
    files = [folder / "shared.safetensors", *(folder / "private").iterdir()]
    frames = [tensor for file in files for name, tensor in load_file(file).items() if name.endswith(".R")]
    assert len(frames) == 2 + 3 * 2
    for R in frames:
        assert (R @ R.T - torch.eye(len(R))).abs().max() <= 1e-5


def test_same_seed_same_bits_and_midway_evaluation_changes_nothing(run: tuple[Path, RunRecord], tmp_path: Path) -> None:
    folder, record = run
    again = simulate(tiny_config(), "again", tmp_path)
    assert (again.metrics, again.users.data_sha256) == (record.metrics, record.users.data_sha256)
    for name in ("shared.safetensors", "private/6.safetensors", "private/8.safetensors", "predictions.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    other = simulate(tiny_config("seed=1"), "other", tmp_path)
    assert other.users.data_sha256 != record.users.data_sha256


@pytest.mark.parametrize("change", ["aggregation=procrustes", "aggregation=function", "joint_private_init=true"])
def test_variants_complete(change: str, tmp_path: Path) -> None:
    assert simulate(tiny_config(change, "rounds=1"), "variant", tmp_path).status == "completed"


@pytest.mark.parametrize("decoding", ["deterministic", "paper"])
def test_generation_tasks_complete(decoding: str, tmp_path: Path) -> None:
    def tweet(n: int) -> dict[str, object]:
        text = f"Paraphrase the following tweet without any explanation before or after it: It is {n} o'clock."
        return {"id": str(n), "input": text, "profile": [{"id": f"h{n}", "text": f"omg {n} already!!"}]}

    golds = [{"id": str(n), "output": f"its {n} yay"} for n in range(9)]
    source = write_lamp(tmp_path / "source", [tweet(n) for n in range(9)], golds, "LaMP_7")
    config = tiny_config("task=tweet_paraphrase", f"users.source={source}", "rounds=1", f"decoding={decoding}")
    assert simulate(config, "tweets", tmp_path).metrics.keys() == {"rouge1", "rougeL"}


def test_a_user_without_history_is_kept_and_served_by_the_collective_shift(tmp_path: Path) -> None:
    questions = [movie(str(n), f"Film {n}.", history=0) for n in range(9)]
    source = write_lamp(tmp_path / "films", questions, [{"id": str(n), "output": "comedy"} for n in range(9)])
    record = simulate(tiny_config(f"users.source={source}", "rounds=1"), "empty", tmp_path)
    assert (record.users.empty_histories, record.users.questions) == (9, 3)
    notes = (tmp_path / "empty" / "events.jsonl").read_text()
    assert "3 target users have no history item: stage 2 leaves their answers as they are" in notes
    assert record.metrics == record.metrics_collective
    personal = [row for row in rows(tmp_path / "empty", "clients") if row["phase"] == "personalize"]
    assert {row["status"] for row in personal} == {"no_history"}
    assert not list((tmp_path / "empty" / "private").iterdir())


THROWAWAY = '''
"""A method in one file: PerFit that adds a constant to every b."""
from strategies.method import TrainResult
from strategies.perfit import PerFit


class Throwaway(PerFit):
    name = "throwaway"

    def __init__(self, sites, seed, strength, fail=False):
        super().__init__(sites, "all", 1, 1, False, "mean", seed)
        self.strength, self.fail = strength, fail

    def client_train(self, adapter, request):
        if self.fail:
            raise ZeroDivisionError("this client cannot")
        trained = super().client_train(adapter, request)
        moved = {k: v + self.strength * k.endswith(".b") for k, v in trained.shared.items()}
        return TrainResult(moved, trained.fit)
'''


def throwaway(folder: Path, extra: str = "") -> list[str]:
    """Write one method file and one TOML into a folder."""
    (folder / "throwaway_method.py").write_text(THROWAWAY)
    toml = folder / "mine.toml"
    toml.write_text(f'method = "throwaway_method:Throwaway"\n[settings]\nstrength = 2.0\n{extra}')
    return [str(toml), *TINY]


def test_a_method_is_added_by_one_file_and_one_toml(tmp_path: Path) -> None:
    toml, *overrides = throwaway(tmp_path)
    config = load_config(Path(toml), overrides)
    assert "throwaway_method" not in sys.modules
    record = simulate(config, "mine", tmp_path, import_path=[str(tmp_path)])
    assert (record.method, record.status) == ("throwaway", "completed")
    shared = load_file(tmp_path / "mine" / "shared.safetensors")
    assert float(shared["shared_collective.1.b"][0]) > 3.0


def test_a_client_that_raises_fails_the_run_and_leaves_its_traceback(tmp_path: Path) -> None:
    toml, *overrides = throwaway(tmp_path, "fail = true\n")
    with pytest.raises(RunFailed, match="round 1: 3 of 3 clients failed"):
        simulate(load_config(Path(toml), overrides), "fails", tmp_path, import_path=[str(tmp_path)])
    folder = tmp_path / "fails"
    record = read_run(folder)
    assert (record.status, record.retries, record.left_out) == ("failed", 6, 3)
    assert record.bytes.total == sum(row["message_bytes"] for row in rows(folder, "ledger"))
    errors = [json.loads(line) for line in (folder / "errors.jsonl").read_text().splitlines()]
    # Every client is tried three times.
    assert len(errors) == 9
    assert all("ZeroDivisionError: this client cannot" in error["traceback"] for error in errors)
    assert [row["status"] for row in rows(folder, "clients") if row["phase"] == "train"] == ["failed"] * 3
    assert rows(folder, "rounds")[0]["failures"] == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sites=[1,4]", "blocks 0 to 3"),
        ("rank.shared=17", "hidden size is 16"),
        ("rank.private=0", "rank.private=0"),
        ("positions=f7l7", "positions='f7l7'"),
        ("aggregation=median", "mean, procrustes, function"),
        ("task=tweet_paraphase", "did you mean 'tweet_paraphrase'"),
        ("backbone=/no/such/model", "backbone: '/no/such/model' cannot be loaded"),
        ("users.source=/no/such/folder", "/no/such/folder: there is no such file or folder"),
        ("settings.temperature=3", "settings.temperature"),
        ("settings.sites=[1]", "belongs at the top level"),
        ("backbone=nobody/no-such-model", "nobody/no-such-model"),
        ("method=strategies.perfit:Perfit", "cannot be imported"),
        ("method=strategies.lora_c:LoraC", "'strategies.lora_c:LoraC' needs settings.rank, settings.alpha, settings."),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        simulate(tiny_config(override), "bad", tmp_path / "results")
    assert message in str(caught.value)
    assert not (tmp_path / "results" / "bad").exists()


def test_an_existing_record_is_not_replaced_without_overwrite(run: tuple[Path, RunRecord]) -> None:
    folder, _ = run
    with pytest.raises(InputError, match="already exists; choose another name, or add --overwrite"):
        simulate(tiny_config(), "first", folder.parent)
    assert read_run(folder).status == "completed"


def test_a_folder_that_is_not_a_record_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    with pytest.raises(InputError, match="not a run record"):
        simulate(tiny_config(), "precious", tmp_path, overwrite=True)
    with pytest.raises(InputError, match="expected at most 200 letters, digits"):
        simulate(tiny_config(), "../up", tmp_path)
    (tmp_path / "a-file").touch()
    with pytest.raises(InputError, match=r"name=a-file: \S+ is not a folder"):
        simulate(tiny_config(), "a-file", tmp_path, overwrite=True)


def test_another_config_under_the_same_name_is_another_run(tmp_path: Path) -> None:
    simulate(tiny_config("rounds=1"), "same", tmp_path)
    simulate(tiny_config("rounds=1", "rank.shared=3"), "same", tmp_path, overwrite=True)
    assert load_file(tmp_path / "same" / "shared.safetensors")["shared_collective.1.R"].shape == (3, 16)


def test_an_incomplete_backbone_is_refused(tmp_path: Path, cache: Path) -> None:
    for left_out, message in (("model.safetensors", "has no weights"), ("tokenizer.json", "cannot be loaded")):
        folder = tmp_path / left_out
        shutil.copytree(cache / "backbones" / "tiny", folder)
        for path in folder.glob("tokenizer*" if "tokenizer" in left_out else left_out):
            path.unlink()
        with pytest.raises(InputError, match=message):
            simulate(tiny_config(f"backbone={folder}"), "incomplete", tmp_path / "results")


def test_a_method_file_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken_method.py").write_text("def f(:\n")
    with pytest.raises(InputError, match=r"broken_method:M.*SyntaxError"):
        simulate(tiny_config("method=broken_method:M"), "x", tmp_path, import_path=[str(tmp_path)])


def test_a_crash_outside_the_apps_closes_the_record(tmp_path: Path) -> None:
    def disk_full(_folder: Path) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        simulate(tiny_config(), "crash", tmp_path, on_progress=disk_full)
    assert read_run(tmp_path / "crash").status == "failed"
