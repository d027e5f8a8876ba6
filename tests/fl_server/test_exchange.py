"""Exchanges with clients (order, failures, bytes), on grids that reorder or fail messages."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from configs.errors import RunFailed
from fl_server import exchange as exchange_module
from fl_server.exchange import Clients, ClientTask
from fl_server.record.ledger import Ledger, total_bytes
from fl_server.record.reply import ClientReply
from fl_server.record.tables import gather
from simulations.engines.inline import InlineGrid
from strategies.wire import TASK, ClientReport, Payload, Phase, array_sizes, message_bytes, pack, unpack

REPORT = ClientReport(examples=1, steps=1, wall_s=0.0, ended_at=0.0, partition_name="cpu", peak_memory_bytes=0)


def train(tensor: torch.Tensor) -> ClientTask:
    """A task of round 1 that sends one tensor to all clients."""
    return task(Phase.TRAIN, tensor)


def task(phase: Phase, tensor: torch.Tensor) -> ClientTask:
    return ClientTask(1, phase, lambda _user, _again: Payload({"shared_x.1.R": tensor}))


def echo_app(fail: int | None = None, histories: Sequence[int] | None = None) -> ClientApp:
    """A client that returns the tensors it received plus its partition id; partition `fail` raises."""
    app = ClientApp()

    @app.query("rollcall")
    def rollcall(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        answer = {"partition": partition, "history": histories[partition] if histories else 1, "queries": 0}
        return Message(RecordDict({TASK: ConfigRecord(answer)}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        if partition == fail:
            raise ArithmeticError("on purpose")
        (shared, _), _ = unpack(message.content)
        payload = Payload({k: v + partition for k, v in shared.items()})
        return Message(pack(payload, REPORT.to_record()), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, _context: Context) -> Message:
        return Message(pack(None, REPORT.to_record()), reply_to=message)

    return app


class Shuffled(InlineGrid):
    """Answers the last message first, and records the sizes of all messages."""

    passed: list[tuple[int, int]]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        self.passed = [*getattr(self, "passed", []), *((payload(m), message_bytes(m)) for m in messages)]
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(list(message_ids)[::-1]))
        self.passed += [(payload(m), message_bytes(m)) for m in replies]
        return replies


def payload(message: Message) -> int:
    return sum(array.payload_bytes for array in array_sizes(message))


def exchange(tmp_path: Path, users: list[int], fail: int | None = None) -> tuple[list[ClientReply], Shuffled, Path]:
    grid, ledger = Shuffled(echo_app(fail), 5, {}), Ledger(tmp_path)
    clients = Clients(grid, ledger)
    assert sorted(clients.call_roll(5)) == [0, 1, 2, 3, 4]
    replies: list[ClientReply] = []
    for reply in clients.ask(train(torch.zeros(2, 3)), users):
        clients.record_message(1, Phase.TRAIN, reply)
        replies.append(reply)
    ledger.table.flush()
    gather(tmp_path)
    return replies, grid, tmp_path


def test_replies_are_yielded_in_the_requested_order_whatever_order_they_arrive_in(tmp_path: Path) -> None:
    replies, _, _ = exchange(tmp_path, [4, 0, 2])
    assert [reply.user for reply in replies] == [4, 0, 2]
    assert [float(reply.shared["shared_x.1.R"][0, 0]) for reply in replies] == [4.0, 0.0, 2.0]


def test_a_failed_clients_reply_has_its_traceback(tmp_path: Path) -> None:
    replies, _, _ = exchange(tmp_path, [0, 1, 2], fail=1)
    assert [reply.error is None for reply in replies] == [True, False, True]
    assert "ArithmeticError: on purpose" in str(replies[1].error)


def test_the_ledger_counts_the_messages_that_were_sent(tmp_path: Path) -> None:
    _, grid, folder = exchange(tmp_path, [0, 3])
    table = pq.read_table(folder / "ledger.parquet")
    assert sum(table["message_bytes"].to_pylist()) == sum(size for _, size in grid.passed)
    assert sum(table["payload_bytes"].to_pylist()) == sum(size for size, _ in grid.passed) == 4 * 2 * 3 * 4
    counted = total_bytes(folder)
    assert counted.total == counted.up + counted.down == sum(size for _, size in grid.passed)
    assert {row["user"] for row in table.to_pylist() if row["phase"] == "rollcall"} == {0, 1, 2, 3, 4}
    train = table.filter([phase == "train" for phase in table["phase"].to_pylist()]).to_pylist()
    assert {(row["direction"], row["user"], row["group"], row["elements"], row["dtype"]) for row in train} == {
        (direction, user, "R", 6, "float32") for direction in ("up", "down") for user in (0, 3)
    }


class Undecodable(InlineGrid):
    """Cannot decode the reply of one node, like Flower's grid of a real federation."""

    bad: str | None = None

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        ids = list(super().push_messages(messages))
        if messages[0].metadata.message_type == "train" and self.bad is None:
            self.bad = ids[0]
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(ids := list(message_ids)))
        if self.bad in ids:
            raise ValueError("Unable to inflate")
        return replies


def test_a_reply_that_flower_cannot_decode_costs_only_that_reply(tmp_path: Path) -> None:
    clients = Clients(Undecodable(echo_app(), 5, {}), Ledger(tmp_path), patience_s=60)
    clients.call_roll(5)
    replies = list(clients.ask(train(torch.zeros(2, 3)), [0, 1, 2]))
    assert [reply.fault for reply in replies] == ["cannot be decoded: ValueError: Unable to inflate", None, None]


def test_an_invalid_answer_to_the_roll_call_is_reported(tmp_path: Path) -> None:
    app = ClientApp()

    @app.query("rollcall")
    def rollcall(message: Message, _context: Context) -> Message:
        answer = {"partition": 0, "history": -1, "queries": 0}
        return Message(RecordDict({TASK: ConfigRecord(answer)}), reply_to=message)

    with pytest.raises(RunFailed, match="roll call: a client's answer cannot be read: history=-1"):
        Clients(InlineGrid(app, 1, {}), Ledger(tmp_path)).call_roll(1)


def test_a_client_that_never_connects_fails_the_roll_call(tmp_path: Path) -> None:
    clients = Clients(InlineGrid(echo_app(), 3, {}), Ledger(tmp_path))
    with pytest.raises(RunFailed, match="3 of 4 clients connected"):
        clients.call_roll(4, timeout=0.1)


def test_two_clients_with_one_partition_fail_the_roll_call(tmp_path: Path) -> None:
    app = ClientApp()

    @app.query("rollcall")
    def rollcall(message: Message, _context: Context) -> Message:
        return Message(RecordDict({TASK: ConfigRecord({"partition": 0, "history": 1, "queries": 1})}), reply_to=message)

    grid = InlineGrid(app, 2, {})
    with pytest.raises(RunFailed, match="two clients hold partition 0"):
        Clients(grid, Ledger(tmp_path)).call_roll(2)


def test_a_device_cannot_claim_the_partition_of_another_key(tmp_path: Path) -> None:
    grid = InlineGrid(echo_app(), 2, {})
    first, second = grid.get_node_ids()
    Clients(grid, Ledger(tmp_path)).call_roll(2, registered={first: 0, second: 1})
    with pytest.raises(RunFailed, match="the key of partition 1 says that it holds partition 0"):
        Clients(grid, Ledger(tmp_path)).call_roll(2, registered={first: 1, second: 0})
    with pytest.raises(RunFailed, match=r"whose key run.sh did not register says that it holds partition 1"):
        Clients(grid, Ledger(tmp_path)).call_roll(2, registered={first: 0})


def test_the_number_of_open_messages_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "_WINDOW", 3)
    grid, ledger = Shuffled(echo_app(), 9, {}), Ledger(tmp_path)
    clients = Clients(grid, ledger)
    clients.call_roll(9)
    # Shuffled answers the last message first, so the reply that is yielded next always arrives last.
    most, out = 0, 0
    push = grid.push_messages

    def pushed(messages: Iterable[Message]) -> Iterable[str]:
        nonlocal out, most
        out += 1
        most = max(most, out)
        return push(messages)

    monkeypatch.setattr(grid, "push_messages", pushed)

    for _reply in clients.ask(train(torch.zeros(1)), range(9)):
        out -= 1
    assert most == 3


class Noting(InlineGrid):
    """Notes the order in which tasks are sent."""

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.sent += [message.metadata.dst_node_id for message in messages]
        return super().push_messages(messages)

    sent: list[int]


@pytest.mark.parametrize(("phase", "order"), [(Phase.EVALUATE, [1, 2, 0]), (Phase.TRAIN, [0, 1, 2])])
def test_long_users_are_asked_first_where_replies_are_small(phase: Phase, order: list[int], tmp_path: Path) -> None:
    grid = Noting(echo_app(histories=[2, 9, 5]), 3, {})
    grid.sent = []
    clients = Clients(grid, Ledger(tmp_path))
    clients.call_roll(3)
    first, grid.sent = grid.sent[0], []
    assert [reply.user for reply in clients.ask(task(phase, torch.zeros(1)), [0, 1, 2])] == [0, 1, 2]
    assert [node - first for node in grid.sent] == order


class Unplugged(InlineGrid):
    """One node is not connected for its first `away` messages; Flower returns an error instead."""

    away = 0
    node = -1

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.times_to_live = [message.metadata.ttl for message in messages]
        self.gone = {}
        for message in messages:
            if message.metadata.dst_node_id == self.node and self.away:
                self.away -= 1
                error = Error(code=ErrorCode.NODE_UNAVAILABLE, reason="offline")
                (number,) = super().push_messages([message])
                self.gone[number] = Message(error, reply_to=message)
                yield number
            else:
                yield from super().push_messages([message])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [
            self.gone.get(str(reply.metadata.reply_to_message_id), reply)
            for reply in super().pull_messages(message_ids)
        ]


def ask_unplugged(folder: Path, away: int, patience_s: float | None, monkeypatch: pytest.MonkeyPatch) -> ClientReply:
    monkeypatch.setattr(exchange_module, "_AWAY_PAUSE_S", 0.01)
    grid = Unplugged(echo_app(), 2, {})
    clients = Clients(grid, Ledger(folder), retries=1, patience_s=patience_s)
    clients.call_roll(2)
    grid.node, grid.away = clients._nodes[1], away
    replies = list(clients.ask(train(torch.zeros(1)), [0, 1]))
    if patience_s is not None:
        assert grid.times_to_live == [patience_s]
    return replies[1]


def test_a_device_that_is_away_is_waited_for_and_does_not_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = ask_unplugged(tmp_path, away=5, patience_s=60.0, monkeypatch=monkeypatch)
    assert (reply.error, reply.attempts) == (None, ())


def test_a_device_that_stays_away_fails_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = ask_unplugged(tmp_path, away=10**6, patience_s=0.2, monkeypatch=monkeypatch)
    assert "offline" in str(reply.error)
    assert len(reply.attempts) == 2  # once and one retry


def test_a_simulated_client_is_never_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(ask_unplugged(tmp_path, away=1, patience_s=None, monkeypatch=monkeypatch).attempts) == 1
