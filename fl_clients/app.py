"""The Flower ClientApp: maps each message type to its handler."""

import json

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from configs.versions import versions_here
from fl_clients import handlers
from fl_clients.process.paths import ClientPaths, client_paths
from fl_clients.turn import Turn
from strategies.metrics.points import EvaluationPoint
from strategies.wire import SECURE, Phase, pack, read_secure, secure_values, unpack, write_statistics

app = ClientApp()


@app.query(Phase.ROLL_CALL)
def rollcall(message: Message, context: Context) -> Message:
    """Answer the roll call; a real device also reports its package versions."""
    paths = _paths(context)
    versions = json.dumps(versions_here()) if paths.is_real_device else None
    return _answer(message, handlers.roll_call(paths, versions))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Stage 1 on this client."""
    payload, task = unpack(message.content)
    return _answer(message, handlers.train(_paths(context), payload, Turn.of(task)))


@app.query(Phase.KEYS)
def keys(message: Message, context: Context) -> Message:
    """Secure aggregation: this client's public keys."""
    _, task = unpack(message.content)
    return _answer(message, handlers.secure_keys(_paths(context), task["round"]))


@app.query(Phase.SHARES)
def shares(message: Message, context: Context) -> Message:
    """Secure aggregation: shares of this client's secrets for the others."""
    _, task = unpack(message.content)
    return _answer(message, handlers.secure_shares(_paths(context), task["round"], read_secure(task)))


@app.query(Phase.UNMASK)
def unmask(message: Message, context: Context) -> Message:
    """Secure aggregation: the shares that take the masks off the sum."""
    _, task = unpack(message.content)
    reply = handlers.secure_unmask(_paths(context), task["round"], task["alive"], task["dropped"])
    return _answer(message, reply)


@app.train(Phase.INTRODUCE)
def introduce(message: Message, context: Context) -> Message:
    """A newcomer's part in the opening."""
    return _answer(message, handlers.introduce(_paths(context)))


@app.train(Phase.PERSONALIZE)
def personalize(message: Message, context: Context) -> Message:
    """Stage 2 on this client."""
    payload, _ = unpack(message.content)
    return _answer(message, handlers.personalize_once(_paths(context), payload))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate at the point that the server requests."""
    payload, task = unpack(message.content)
    point = EvaluationPoint(task["point"])
    if point == EvaluationPoint.PERSONALISED:
        return _answer(message, handlers.personalize(_paths(context), payload, persist=False))
    return _answer(message, handlers.evaluate(_paths(context), payload, point))


def _paths(context: Context) -> ClientPaths:
    return client_paths(context.node_config, context.run_config, context.run_id)


def _answer(message: Message, reply: handlers.Reply) -> Message:
    content = pack(reply.payload, reply.report.to_record())
    write_statistics(content, reply.statistics)
    if reply.secure:
        content.config_records[SECURE] = ConfigRecord(dict(secure_values(reply.secure)))
    return Message(content, reply_to=message)
