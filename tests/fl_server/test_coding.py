"""What codecs, feedback and decoding promise of a run's messages; without Flower and without training."""

from dataclasses import replace

import pytest
import torch

from configs.errors import RunFailed
from configs.exchange import ServerConfig
from fl_clients.coding import LEFT_OUT, ClientCoding
from fl_server.coding import ServerCoding
from fl_server.server_step import ServerStep
from strategies.codecs import Layout, change_name, copy_name
from strategies.wire import Payload
from tests.fl_server.coded import METHOD, SHAPE, START, config, distance, exchange, reply, trained


def test_raw_messages_are_the_tensors_themselves() -> None:
    server, client = ServerCoding(config(), METHOD, START), ClientCoding(config(), METHOD, SHAPE)
    payload = server.payload(START, 0)
    assert payload.tensors.keys() == START.keys()
    assert not payload.blobs
    shared, held = client.receive(payload, {})
    assert (shared, held) == (payload.tensors, {})
    answer, owed = client.reply(trained(shared, 1), shared, {}, (1, -1), "u")
    back = server.decoded(reply(0, answer), START, 1)
    assert back.shared is answer.tensors
    assert owed == {}


def test_exact_codecs_change_nothing_beyond_rounding() -> None:
    cohorts = [[0, 1], [1, 2], [0, 2]]
    _, plain, _ = exchange(config(), 3, cohorts)
    for up, down in (("fp32", "fp32"), ("fp32", "raw"), ("raw", "fp32")):
        _, coded, _ = exchange(config(up=up, down=down), 3, cohorts)
        assert distance(plain, coded) < 1e-5, (up, down)


@pytest.mark.parametrize("codec", ["int4", "top-k 0.3", "ternary 0.3", "sign", "drive"])
def test_decoded_tensors_keep_what_the_method_promises(codec: str) -> None:
    server, state, _ = exchange(config(up=codec, down=codec), 3, [[0, 1], [1, 2], [0, 2]])
    for tensors in (state, server.newcomers_tensors(state)):
        for name, R in tensors.items():
            if name.endswith(".R"):
                assert torch.allclose(R @ R.T, torch.eye(len(R)), atol=1e-5)
    assert server.newcomers_tensors(state).keys() == START.keys()


def test_coded_values_are_the_same_for_everybody_and_0_where_left_out() -> None:
    settings = config(down="top-k 0.25", down_of="values")
    server, _, sent = exchange(settings, 3, [[0, 1], [1], [2]])
    assert [list(payload.blobs) for payload in sent[::2]] == [["shared_values.1"]] * 2 + [
        ["shared_values.2"],
        ["shared_values.3"],
    ]
    goal = trained(START, 5)
    server.advance(4, goal)
    held, full = server._reference.tensors, METHOD.to_wire(goal)
    matrices = [name for name in full if full[name].dim() > 1]
    kept = sum(int((held[name] != 0).sum()) for name in matrices)
    assert kept == round(0.25 * sum(full[name].numel() for name in matrices))
    for name in matrices:
        there = held[name] != 0
        assert torch.allclose(held[name][there], full[name][there], rtol=1e-3)
    again = ServerCoding(settings, METHOD, goal | server.saved())
    assert again.payload(goal, None).blobs == server.payload(goal, None).blobs


def test_without_feedback_nothing_is_owed() -> None:
    client = ClientCoding(config(up="top-k 0.1", feedback=False), METHOD, SHAPE)
    _, owed = client.reply(trained(START, 1), START, {}, (1, -1), "u")
    assert owed == {}


def test_what_the_downlink_left_out_comes_later() -> None:
    # Nothing changes after round 1, so the clients' tensors approach the server's.
    settings = config(down="top-k 0.1")
    server, goal = ServerCoding(settings, METHOD, START), trained(START, 1)
    gaps = []
    for version in range(2, 26):
        server.advance(version, goal)
        gaps.append(distance(server.newcomers_tensors(goal), goal))
    assert gaps[0] > 0.1
    assert gaps[-1] < 0.01 * gaps[0]


@pytest.mark.parametrize("codec", ["top-k 0.1", "ternary 0.1", "sign"])
def test_the_decoded_changes_and_the_rest_are_all_changes(codec: str) -> None:
    settings = config(up=codec)
    client, server = ClientCoding(settings, METHOD, SHAPE), ServerCoding(settings, METHOD, START)
    base = METHOD.to_wire(START)
    decoded, changes, store = {n: torch.zeros_like(v) for n, v in base.items()}, dict[str, torch.Tensor](), {}
    changes = {name: torch.zeros_like(value) for name, value in base.items()}
    for number in range(1, 11):
        after = trained(START, number)
        answer, store = client.reply(after, START, store, (number, number - 1), "u")
        blob = server._change(reply(0, answer), client_layout(), number)
        for name in base:
            decoded[name] += blob[name]
            changes[name] += METHOD.to_wire(after)[name] - base[name]
    for name in base:
        assert torch.allclose(decoded[name] + store[f"{LEFT_OUT}{name}"], changes[name], atol=1e-6)


def client_layout() -> Layout:
    return Layout.of(METHOD.to_wire(START))


def test_the_rest_is_forgotten_at_the_rate_of_the_config() -> None:
    client = ClientCoding(config(up="top-k 0.1", error_decay=0.5), METHOD, SHAPE)
    owed = {f"{LEFT_OUT}{name}": torch.ones_like(value) for name, value in METHOD.to_wire(START).items()}
    # Two rounds were missed, and training changed nothing: a quarter of what was owed is owed now.
    answer, left = client.reply(START, START, owed, (5, 2), "u")
    sent = ServerCoding(config(up="top-k 0.1"), METHOD, START)._change(reply(0, answer), client_layout(), 5)
    for name, value in sent.items():
        assert torch.allclose(value + left[f"{LEFT_OUT}{name}"], torch.full_like(value, 0.25), atol=1e-3)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda blob: blob[:-1], "checksum"),
        (lambda blob: blob[:2] + b"\x07" + blob[3:], "version is 7"),
        (lambda _blob: b"", "less than a header"),
    ],
)
def test_a_damaged_change_costs_its_sender(damage: object, fault: str) -> None:
    assert callable(damage)
    settings = config(up="int8")
    server, client = ServerCoding(settings, METHOD, START), ClientCoding(settings, METHOD, SHAPE)
    answer, _ = client.reply(trained(START, 1), START, {}, (1, -1), "u")
    (name, blob), *_ = answer.blobs.items()
    bad = server.decoded(reply(3, Payload({}, {name: damage(blob)})), START, 1)
    assert bad.report is None
    assert fault in str(bad.fault)
    for wrong in (Payload(trained(START, 1)), Payload({}, {change_name(2): blob}), Payload({})):
        assert "expected one array 'shared_change.1'" in str(server.decoded(reply(3, wrong), START, 1).fault)


def test_tensors_of_other_shapes_cost_their_sender() -> None:
    server = ServerCoding(config(down="int8"), METHOD, START)
    server.advance(1, START)
    shared = {name: value[:1] for name, value in START.items()}
    assert "other names or shapes" in str(server.decoded(reply(0, Payload(shared)), START, 1).fault)


@pytest.mark.parametrize("copy_as", ["fp32", "drive"])
def test_a_resumed_server_goes_on_with_the_same_bits(copy_as: str) -> None:
    settings = config(up="int4", down="ternary 0.1", copy_as=copy_as)
    server, state, _ = exchange(settings, 3, [[0], [1], [0]])
    again = ServerCoding(settings, METHOD, state | server.saved())
    for one in (server, again):
        one.advance(4, trained(state, 9))
    for whole in (False, True):
        ours, theirs = (each.payload(state, 1, 2, whole) for each in (server, again))
        assert ours.blobs == theirs.blobs
    copied = copy_as == "drive"  # an eighth of an exact one
    names = [copy_name(4)] if copied else [change_name(3), change_name(4)]
    assert list(server.payload(state, 1, 2).blobs) == names


def test_an_opening_round_is_coded_against_the_start() -> None:
    settings = config(up="fp32", down="int8")
    server, client = ServerCoding(settings, METHOD, START), ClientCoding(settings, METHOD, SHAPE)
    shared, held = client.receive(Payload({}), {})
    assert distance(shared, START) < 1e-5
    after = trained(START, 1)
    answer, _ = client.reply(after, shared, held, (0, -1), "u")
    assert distance(server.decoded(reply(0, answer), START, 0).shared, after) < 1e-5


def test_what_an_opening_left_out_is_not_owed_to_the_rounds() -> None:
    client = ClientCoding(config(up="top-k 0.1"), METHOD, SHAPE)
    for number, owes in ((0, False), (1, True)):
        _, owed = client.reply(trained(START, 1), START, {}, (number, -1), "u")
        assert bool(owed) == owes


def test_tensors_that_are_not_finite_end_the_run_by_name() -> None:
    server = ServerCoding(config(down="int8"), METHOD, START)
    endless = {name: value * float("inf") for name, value in START.items()}
    with pytest.raises(RunFailed, match=r"round 2: wire.down='int8' cannot write the tensors: .*not finite"):
        server.advance(2, endless)


@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_a_step_that_is_too_long_ends_the_run_by_name(kind: str) -> None:
    settings = config().model_copy(
        update={"server": ServerConfig.model_construct(optimizer=kind, lr=1e42, momentum=0.9, beta2=0.99, tau=1e-3)}
    )
    step = ServerStep(settings.server, METHOD, {})
    average = trained(START, 1)
    assert step.apply(0, START, average) is average  # an opening takes no step
    with pytest.raises(RunFailed, match=f"round 3: the step of server.optimizer='{kind}' is too long; try server.lr"):
        step.apply(3, START, trained(START, 1))


def test_failed_clients_pass_through() -> None:
    server = ServerCoding(config(up="int8"), METHOD, START)
    failed = replace(reply(0, Payload({})), report=None, error="Traceback")
    assert server.decoded(failed, START, 1) is failed
