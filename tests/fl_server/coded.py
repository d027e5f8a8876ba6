"""A method, and rounds of coded messages without Flower and without training."""

import torch

from configs.schema import RunConfig
from fl_clients.coding import ClientCoding
from fl_server.coding import ServerCoding
from fl_server.record.reply import ClientReply
from strategies.method import BackboneShape, Tensors
from strategies.perfit import PerFit
from strategies.wire import ClientReport, Payload
from tests.conftest import tiny_config

SHAPE = BackboneShape(hidden=64, blocks=4, parameters=0)
METHOD = PerFit([1, 3], "all", 4, 2, False, "mean", 0)
START = METHOD.server_init(SHAPE)
REPORT = ClientReport(
    examples=1, steps=1, loss_first=1, loss_last=1, wall_s=0, ended_at=0, partition_name="cpu", peak_memory_bytes=0
)


def config(**wire: object) -> RunConfig:
    return tiny_config(*(f"wire.{key}={value}" for key, value in wire.items()))


def trained(shared: Tensors, seed: int) -> Tensors:
    """Return a client's tensors after a training that moves all of R, D and b, with RRᵀ = I."""
    generator = torch.Generator().manual_seed(seed)
    coded = METHOD.to_wire(shared)
    return METHOD.from_wire({k: v + 0.05 * torch.randn(v.shape, generator=generator) for k, v in coded.items()})


def distance(tensors: Tensors, others: Tensors) -> float:
    """The longest difference in wire form, which is that of the functions."""
    ours, theirs = METHOD.to_wire(tensors), METHOD.to_wire(others)
    return max(float((ours[name] - theirs[name]).norm()) for name in ours)


def reply(user: int, payload: Payload) -> ClientReply:
    return ClientReply(user, payload.tensors, REPORT, {}, blobs=payload.blobs)


def exchange(settings: RunConfig, rounds: int, cohorts: list[list[int]]) -> tuple[ServerCoding, Tensors, list[Payload]]:
    """Run rounds in which every client of a cohort moves and the server takes the mean in wire form."""
    server, client = ServerCoding(settings, METHOD, START), ClientCoding(settings, METHOD, SHAPE)
    state, stores, turns, sent = START, dict[int, Tensors](), dict[int, int](), []
    for number in range(1, rounds + 1):
        server.advance(number, state)
        found = []
        for user in cohorts[number - 1]:
            last = turns.get(user, -1)
            payload = server.payload(state, user, max(last, 0))
            store = stores.get(user, {})
            shared, held = client.receive(payload, store)
            answer, owed = client.reply(trained(shared, 100 * number + user), shared, store, (number, last), str(user))
            stores[user], turns[user] = held | owed, number
            sent += [payload, answer]
            decoded = server.decoded(reply(user, answer), state, number)
            assert decoded.fault is None
            found.append(METHOD.to_wire(decoded.shared))
        mean = {name: sum(one[name] for one in found) / len(found) for name in found[0]}
        state = METHOD.from_wire(mean)
    return server, state, sent
