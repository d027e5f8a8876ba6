"""What a client gets whose tensors are not those of the round before: missed changes, or a copy, exact or coded."""

import pytest
import torch

from fl_clients.coding import ClientCoding
from fl_server.coding import ServerCoding
from strategies.codecs import change_name, copy_name
from tests.fl_server.coded import METHOD, SHAPE, START, config, distance, exchange, reply, trained


def test_a_client_gets_the_changes_it_has_missed_or_a_copy_if_that_is_less() -> None:
    _, _, sent = exchange(config(down="int4"), 5, [[0], [0], [1], [1], [0]])
    names = [list(payload.blobs) for payload in sent[::2]]
    # In round 1 everybody has the start, from the seed.
    assert names == [
        [],
        [change_name(2)],
        [change_name(2), change_name(3)],
        [change_name(4)],
        [change_name(3), change_name(4), change_name(5)],
    ]
    _, _, sent = exchange(config(down="fp32"), 3, [[0], [0], [1]])
    assert [list(payload.blobs) for payload in sent[::2]] == [[], [change_name(2)], [copy_name(3)]]


def test_a_coded_copy_is_short_and_newcomers_hold_what_the_server_says() -> None:
    settings = config(up="int4", down="int4", copy_as="int8")
    client = ClientCoding(settings, METHOD, SHAPE)
    server, state, sent = exchange(settings, 4, [[0], [0], [1], [0]])
    # User 1 lacks two changes, which together are longer than a copy; user 0 likewise in round 4.
    assert [list(payload.blobs) for payload in sent[::2]] == [[], [change_name(2)], [copy_name(3)], [copy_name(4)]]
    server.advance(5, state)
    payload = server.payload(state, None)
    (blob,) = payload.blobs.values()
    numbers = sum(value.numel() for value in START.values())
    assert len(blob) < 1.1 * numbers
    shared, _ = client.receive(payload, {})
    held = server.newcomers_tensors(state)
    assert all(torch.equal(shared[name], held[name]) for name in held)
    exact = METHOD.from_wire(server._reference.tensors)
    assert 0 < distance(held, exact) < 0.02 * distance(START, exact)


def test_a_client_with_a_coded_copy_goes_on_from_what_it_holds() -> None:
    settings = config(up="fp32", down="int4", copy_as="int4")
    server, client = ServerCoding(settings, METHOD, START), ClientCoding(settings, METHOD, SHAPE)
    for version in (2, 3):
        server.advance(version, trained(START, version))
    shared, held = client.receive(server.payload(START, 0), {})
    apart = distance(shared, METHOD.from_wire(server._reference.tensors))
    assert apart > 0
    server.advance(4, trained(START, 4))
    later, _ = client.receive(server.payload(START, 0, 3), held)
    assert distance(later, METHOD.from_wire(server._reference.tensors)) == pytest.approx(apart, rel=0.02)
    # What it sends is the change that its own training made.
    answer, _ = client.reply(trained(later, 5), later, held, (4, 3), "u")
    goal = METHOD.to_wire(trained(later, 5))
    change = {name: goal[name] - value for name, value in METHOD.to_wire(later).items()}
    base = METHOD.to_wire(START)
    wanted = METHOD.from_wire({name: base[name] + value for name, value in change.items()})
    assert distance(server.decoded(reply(0, answer), START, 4).shared, wanted) < 1e-4


def test_a_retry_takes_an_exact_copy_so_that_it_changes_nothing() -> None:
    settings = config(up="int4", down="int4", copy_as="int4")
    server, client = ServerCoding(settings, METHOD, START), ClientCoding(settings, METHOD, SHAPE)
    server.advance(2, trained(START, 2))
    first, _ = client.receive(server.payload(START, 0, 1), {})
    again, _ = client.receive(server.payload(START, 0, 1, whole=True), {})
    assert distance(first, again) < 1e-5


def test_the_latest_change_is_sent_even_if_a_copy_is_shorter() -> None:
    server = ServerCoding(config(up="int8", down="int8", copy_as="int4"), METHOD, START)
    for version in (2, 3):
        server.advance(version, trained(START, version))
    assert list(server.payload(START, 0, 2).blobs) == [change_name(3)]
    assert list(server.payload(START, 0, 1).blobs) == [copy_name(3)]


def test_a_change_that_does_not_follow_is_refused_by_the_client() -> None:
    server, client = ServerCoding(config(down="int8"), METHOD, START), ClientCoding(config(down="int8"), METHOD, SHAPE)
    for version in (2, 3):
        server.advance(version, trained(START, version))
    # The server believes that the client has version 2, but its store was lost.
    payload = server.payload(START, 0, 2)
    with pytest.raises(ValueError, match=r"'shared_change\.3' does not follow version 1"):
        client.receive(payload, {})


def test_newcomers_to_another_runs_tensors_get_a_copy() -> None:
    settings = config(up="int8", down="int8", copy_as="int4").model_copy(update={"start_from": "other"})
    goal = trained(START, 1)
    server, client = ServerCoding(settings, METHOD, goal), ClientCoding(settings, METHOD, SHAPE)
    server.advance(9, goal)
    payload = server.payload(goal, None)
    assert list(payload.blobs) == [copy_name(2)]
    shared, _ = client.receive(payload, {})
    assert distance(shared, goal) < 1e-5
