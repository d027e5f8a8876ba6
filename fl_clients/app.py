"""The Flower ClientApp: which message is answered by which work, and nothing else."""

import json

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from configs.versions import versions_here
from fl_clients import work
from fl_clients.places import Place, place_of
from strategies.wire import pack, put_numbers, unpack

app = ClientApp()


@app.query("rollcall")
def rollcall(message: Message, context: Context) -> Message:
    """Answer the roll call; a device of its own says too what it computes with."""
    place = _place(context)
    reply = work.roll_call(place.data_dir, place.partition)
    if place.own:
        reply.values["versions"] = json.dumps(versions_here())
    return _answer(message, reply)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Stage 1 on this client."""
    shared, task = unpack(message.content)
    place = _place(context)
    trained = work.train(place.run_dir, place.data_dir, place.partition, shared, task["round"], task["last_turn"])
    return _answer(message, trained)


@app.train("personalize")
def personalize(message: Message, context: Context) -> Message:
    """Stage 2 on this client."""
    shared, _ = unpack(message.content)
    place = _place(context)
    return _answer(message, work.personalize_once(place.run_dir, place.data_dir, place.partition, shared))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate, at the stage the server asks for."""
    shared, task = unpack(message.content)
    place = _place(context)
    if task["stage"] == "personalised":
        return _answer(message, work.personalize(place.run_dir, place.data_dir, place.partition, shared, False))
    return _answer(message, work.evaluate(place.run_dir, place.data_dir, place.partition, shared, task["stage"]))


def _place(context: Context) -> Place:
    return place_of(context.node_config, context.run_config, context.run_id)


def _answer(message: Message, reply: work.Reply) -> Message:
    content = pack(reply.shared, reply.values)
    put_numbers(content, reply.numbers)
    return Message(content, reply_to=message)
