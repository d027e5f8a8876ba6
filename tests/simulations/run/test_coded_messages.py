"""Codecs and server optimisers through whole federations."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from configs.errors import InputError
from configs.load import write_config
from fl_clients.coding import ClientCoding
from fl_server.record.schema import RunRecord, read_run
from simulations.cli.main import app
from simulations.display.tables import bytes_table
from simulations.run.simulate import resume, simulate
from strategies.codecs import HEADER_BYTES, find_codec
from strategies.lora_c import LoraC
from strategies.method import Tensors
from strategies.wire import Payload
from tests.conftest import TINY, happened, tiny_config

pytestmark = pytest.mark.integration
LORA = ("settings.rank=2", "settings.alpha=4")
METHODS = ["perfit", "reft-c", "lora-c", "oppu", "ffa-lora", "fedsa-lora", "fed-sb", "fdlora"]
APART = ["flora", "fedex-lora", "fedreft"]


def words_of(method: str) -> tuple[str, ...]:
    settings = LORA if "lora" in method or method in ("oppu", "flasc", "fed-sb", "fedsrd") else ()
    return (f"method={method}", "rounds=3", *settings)


def run(folder: Path, *words: str, method: str = "perfit") -> RunRecord:
    return simulate(tiny_config(*words_of(method), *words), "run", folder, overwrite=True)


def rows(folder: Path, phase: str, direction: str) -> list[dict[str, object]]:
    table = pq.read_table(folder / "run" / "ledger.parquet").to_pylist()
    return [row for row in table if (row["phase"], row["direction"]) == (phase, direction)]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_with_one_shared_state_takes_codecs(
    method: str, finished: Callable[..., Path], tmp_path: Path
) -> None:
    raw = read_run(finished(*words_of(method)))
    coded = run(tmp_path, "wire.up=int4", "wire.down=int8", method=method)
    assert coded.status == "completed"
    # Besides the coded numbers a message has its header, which matters at a few hundred numbers.
    assert coded.bytes.payload_up - 9 * HEADER_BYTES < raw.bytes.payload_up / 4
    assert coded.bytes.payload_down < raw.bytes.payload_down / 1.5
    assert {row["codec"] for row in rows(tmp_path, "train", "up")} == {"int4"}
    assert (coded.bytes.codec_up, coded.bytes.codec_down) == ("int4", "int8")
    found = rows(tmp_path, "train", "up")
    numbers, payload = (sum(int(str(row[key])) for row in found) for key in ("elements", "payload_bytes"))
    assert coded.bytes.ratio_up == pytest.approx(4 * numbers / payload)
    trains = sum(int(str(row["payload_bytes"])) for way in ("up", "down") for row in rows(tmp_path, "train", way))
    assert coded.bytes.payload_training == trains < coded.bytes.payload_up + coded.bytes.payload_down
    cells = [str(cell) for column in bytes_table(coded).columns for cell in column.cells]
    assert {"  codec", "int4", "int8", f"{coded.bytes.ratio_up:.1f} ×"} <= set(cells)


def test_a_coded_copy_is_what_newcomers_get_here_and_in_a_later_run(tmp_path: Path) -> None:
    words = ("wire.up=int4", "wire.down=int4", "wire.copy_as=int4", "rounds=6")
    run(tmp_path, *words)
    found = rows(tmp_path, "personalize", "down")
    assert {row["codec"] for row in found} == {"int4"}
    numbers = int(str(found[0]["elements"]))
    assert all(int(str(row["payload_bytes"])) < numbers / 2 * 1.1 + 60 for row in found)
    # Newcomers of a later run get exactly these tensors, not a copy of a copy.
    later = tiny_config(*words, f"start_from={tmp_path / 'run'}")
    again = simulate(later, "later", tmp_path)
    assert again.metrics == run(tmp_path, *words).metrics


def test_flasc_sends_a_quarter_of_the_numbers_and_their_places_both_ways(tmp_path: Path) -> None:
    record = run(tmp_path, method="flasc")
    # LoRA of rank 2 on q, k, v of four blocks: A is 2·16·3 a block, B 2·(16 + 8 + 8).
    numbers = 4 * 2 * (48 + 32)
    # Two bytes for each quarter of them, and places of at most a bit a number.
    most = HEADER_BYTES + 2 * numbers // 4 + numbers // 8
    for direction in ("up", "down"):
        found = rows(tmp_path, "train", direction)
        assert {row["codec"] for row in found} == {"top-k"}
        assert all(most - numbers // 8 < int(str(row["payload_bytes"])) <= most for row in found)
    assert record.status == "completed"


def test_fedsrd_sends_the_numbers_that_matter_and_their_places_both_ways(tmp_path: Path) -> None:
    # B of a layer this small with four fifths left out is nearly singular, and A would become large.
    record = run(tmp_path, "settings.rank=8", "settings.drop=0.3", method="fedsrd")
    assert record.status == "completed"
    numbers = 4 * 8 * (48 + 32)
    for direction in ("up", "down"):  # nothing comes down in the first round
        found = [row for row in rows(tmp_path, "train", direction) if row["group"]]
        assert {row["codec"] for row in found} == {"nonzero"}
        assert {row["elements"] for row in found} == {numbers}
    # 4 to 15 % of the numbers, or one of each matrix of eight rows, and a bit for the place of each.
    for row in rows(tmp_path, "train", "up"):
        payload = int(str(row["payload_bytes"])) - HEADER_BYTES
        assert 4 * 0.04 * numbers < payload < 4 * 0.2 * numbers + numbers / 8
    # The first round changes seven tenths of B, which is 32 of 80 numbers.
    for row in rows(tmp_path, "train", "down"):
        if row["round"] == 2:
            payload = int(str(row["payload_bytes"])) - HEADER_BYTES
            assert payload == pytest.approx(4 * 0.7 * numbers * 32 / 80, rel=0.1)


@pytest.mark.parametrize("method", APART)
def test_methods_that_keep_clients_apart_refuse_codecs_and_optimisers_by_name(method: str, tmp_path: Path) -> None:
    for words in ("wire.up=int4", "wire.down=fp16", "server.optimizer=nesterov"):
        with pytest.raises(InputError, match=f"{words.split('=')[0]}='.*': {method} keeps clients' updates separate"):
            run(tmp_path, words, method=method)
    assert not (tmp_path / "run").exists()


def test_a_method_that_sends_nothing_ignores_codecs(tmp_path: Path) -> None:
    plain = run(tmp_path, method="lora-p")
    assert run(tmp_path, "wire.up=int4", "wire.down=int4", method="lora-p").metrics == plain.metrics


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("wire.up=int5", "wire.up='int5': expected raw, fp32"),
        ("wire.down=top-k 7", "wire.down='top-k 7': expected a share of the numbers above 0 and at most 1"),
        ("server.optimizer=adam", "server.lr=1: adam moves every number by about this much in a round"),
        ("server.tau=1e-2", "server.tau=0.01 has no effect with optimizer='none'"),
        ("server.optimizer=momentum server.beta2=0.5", "server.beta2=0.5 has no effect with optimizer='momentum'"),
        ("method=fedsrd settings.prune_slope=-1", "settings.prune_slope=-1"),
        ("wire.error_decay=2", "wire.error_decay"),
        ("wire.error_decay=0.5", "error_decay=0.5 needs up='top-k …', 'ternary …' or 'sign', not 'raw'"),
        ("wire.feedback=false", "feedback=False needs up="),
        ("wire.down_of=values", "down_of='values' needs a codec for clients"),
        ("wire.copy_as=int8", "copy_as='int8' needs a codec for changes (down)"),
        ("wire.down=int8 wire.copy_as=int8", "copy_as='int8' needs clients that send changes (up)"),
        (
            "keep=best users.held_out=2 wire.up=int4 wire.down=int4 wire.copy_as=int4",
            "keep='best' serves the tensors that were judged, which needs wire.copy_as='fp32'",
        ),
        ("wire.copy_as=sign", "wire.copy_as='sign': input should be 'fp32', 'fp16'"),
        ("local.optimizer=sgd local.keep_moments=true", "keep_moments=true needs optimizer='adamw', not 'sgd'"),
        ("server.optimizer=sgd", "server.optimizer"),
        ("server.lr=0", "server.lr"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(words: str, message: str, tmp_path: Path) -> None:
    split = words.split() if words.count("=") > 1 else [words]
    done = CliRunner().invoke(app, ["simulate", *TINY, *split, "--results", str(tmp_path), "--name", "run"])
    assert message in str(done.exception)
    assert not (tmp_path / "run").exists()


class Forgetful(LoraC):
    """A method whose wire form loses B."""

    def to_wire(self, shared: Tensors) -> Tensors:
        return {name: value for name, value in shared.items() if not name.endswith(".B")}


def test_a_wire_form_that_loses_something_is_refused_before_any_work(tmp_path: Path) -> None:
    settings = [f"settings.{key}" for key in ("rank=2", "alpha=4", "dropout=0.0", 'targets=["v_proj"]', "blocks=[]")]
    method = f"method={__name__}:Forgetful"
    with pytest.raises(InputError, match=r"from_wire does not undo to_wire: tensor 'shared_.*B' does not come back"):
        simulate(tiny_config(method, *settings, "wire.up=int8"), "run", tmp_path)
    with pytest.raises(InputError, match=r"down_of='values': perfit needs every number"):
        run(tmp_path, "wire.down=int8", "wire.down_of=values")
    assert not (tmp_path / "run").exists()


def test_what_tensors_depend_on_cannot_change_when_a_run_is_resumed(tmp_path: Path) -> None:
    def stop(folder: Path) -> None:
        if happened(folder, '"round": 1'):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tiny_config("wire.up=int4", "wire.down=int8"), "run", tmp_path, on_progress=stop)
    for key in ("wire.up=int8", "wire.down=sign", "server.optimizer=nesterov"):
        write_config(tiny_config("wire.up=int4", "wire.down=int8", key), tmp_path / "run" / "config.toml")
        with pytest.raises(InputError, match=f"{key.partition('=')[0]}='.*': the run began with"):
            resume("run", tmp_path)


def test_a_client_that_lost_what_it_kept_gets_a_copy_on_the_retry(tmp_path: Path) -> None:
    whole = run(tmp_path, "wire.down=int8")
    before = load_file(tmp_path / "run" / "shared.safetensors")

    def lose(folder: Path) -> None:
        if happened(folder, '"round": 2') and not happened(folder, '"round": 3'):
            for kept in (folder / "private").glob("*.rounds/*.safetensors"):
                kept.unlink()

    again = simulate(tiny_config("rounds=3", "wire.down=int8"), "lost", tmp_path, on_progress=lose)
    after = load_file(tmp_path / "lost" / "shared.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert again.retries > whole.retries
    clients = pq.read_table(tmp_path / "lost" / "ledger.parquet").to_pylist()
    assert any(row["group"] == "copy" and row["round"] == 3 and row["phase"] == "train" for row in clients)


def test_an_exact_codec_gives_the_same_answers(finished: Callable[..., Path], tmp_path: Path) -> None:
    plain = finished(*words_of("perfit"))
    raw, before = read_run(plain), load_file(plain / "shared.safetensors")
    coded = run(tmp_path, "wire.up=fp32", "wire.down=fp32")
    after = load_file(tmp_path / "run" / "shared.safetensors")
    assert all(torch.allclose(value, after[name], atol=1e-5) for name, value in before.items())
    assert coded.metrics == raw.metrics


@pytest.mark.parametrize("codec", ["fp16", "int8", "int4", "sign", "drive", "top-k 0.1", "ternary 0.1"])
def test_messages_are_a_header_and_what_the_codec_writes(codec: str, tmp_path: Path) -> None:
    run(tmp_path, f"wire.up={codec}")
    # Per site R and D [4, 16] of the collective shift, and its b.
    matrices, vectors = 2 * 2 * 4 * 16, 2 * 4
    found = rows(tmp_path, "train", "up")
    assert {row["elements"] for row in found} == {matrices + vectors}
    # The places of sparse codecs need more or fewer bits.
    written = len(find_codec(codec).encode(torch.randn(matrices).numpy(), 0))
    slack = 12 if " " in codec else 0
    for row in found:
        assert abs(int(str(row["payload_bytes"])) - (HEADER_BYTES + written + 2 * vectors)) <= slack
    # One array: its name and wrapper are all that is added, and the report.
    assert all(int(str(row["message_bytes"])) - int(str(row["payload_bytes"])) < 700 for row in found)


@pytest.mark.parametrize(
    "damage",
    [lambda blob: blob[:-3], lambda blob: blob[:3] + b"\x05" + blob[4:8] + b"\xff" * 4 + blob[12:]],
    ids=["too short", "another codec and count"],
)
def test_a_coded_update_that_is_damaged_is_left_out_by_name(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, users = ClientCoding.reply, list[object]()

    def reply(self: ClientCoding, *args: object) -> tuple[Payload, Tensors]:
        payload, owed = honest(self, *args)  # type: ignore[arg-type]
        users.append(args[4])
        if args[4] == users[0] and args[3][0] == 2:  # type: ignore[index]
            return Payload({}, {name: damage(blob) for name, blob in payload.blobs.items()}), owed
        return payload, owed

    monkeypatch.setattr(ClientCoding, "reply", reply)
    words = ("wire.up=int8", "users.collective=3", "cohort=3", "faults.min_replies=2")
    record = run(tmp_path, *words)
    assert record.status == "completed"
    assert record.left_out == 1
    clients = pq.read_table(tmp_path / "run" / "clients.parquet").to_pylist()
    assert [row["round"] for row in clients if "its change cannot be read" in row["status"]] == [2]
    # What its header says does not count.
    assert record.bytes.codec_up == "int8"
    assert 3 < record.bytes.ratio_up < 4


@pytest.mark.parametrize("rule", ["clip", "median", "trimmed_mean", "krum"])
def test_robust_rules_judge_decoded_updates(rule: str, tmp_path: Path) -> None:
    words = ("users.collective=5", "cohort=5", "wire.up=int8", f"robust.rule={rule}")
    assert run(tmp_path, *words).status == "completed"


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adam", "yogi"])
def test_server_optimisers_keep_rows_orthonormal(optimizer: str, finished: Callable[..., Path], tmp_path: Path) -> None:
    plain = read_run(finished(*words_of("perfit")))
    first = load_file(finished(*words_of("perfit")) / "shared.safetensors")
    stepped = run(tmp_path, f"server.optimizer={optimizer}", "server.lr=0.02")
    tensors = load_file(tmp_path / "run" / "shared.safetensors")
    R = tensors["shared_collective.1.R"]
    assert torch.allclose(R @ R.T, torch.eye(len(R)), atol=1e-5)
    assert not torch.equal(R, first["shared_collective.1.R"])
    assert stepped.bytes.payload_up == plain.bytes.payload_up


def test_momentum_of_zero_and_a_full_step_are_the_average(finished: Callable[..., Path], tmp_path: Path) -> None:
    first = load_file(finished(*words_of("perfit")) / "shared.safetensors")
    run(tmp_path, "server.optimizer=momentum", "server.momentum=0")
    second = load_file(tmp_path / "run" / "shared.safetensors")
    assert all(torch.allclose(value, second[name], atol=1e-5) for name, value in first.items())


def test_the_record_holds_what_newcomers_decoded(tmp_path: Path) -> None:
    run(tmp_path, "wire.down=sign")
    coded = load_file(tmp_path / "run" / "shared.safetensors")
    first = read_run(tmp_path / "run").metrics_collective
    # A newcomer to the finished run starts from those tensors, and answers alike.
    words = ["rounds=3", f"start_from={tmp_path / 'run'}", "wire.down=sign", "users.overlap=true"]
    again = simulate(tiny_config(*words), "newcomers", tmp_path)
    assert again.metrics_collective == first
    copied = load_file(tmp_path / "newcomers" / "shared.safetensors")
    assert all(torch.allclose(value, copied[name], atol=1e-5) for name, value in coded.items())
