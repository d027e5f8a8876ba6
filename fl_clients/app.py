"""The Flower ClientApp: which message is answered by which work, and nothing else."""

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from configs.paths import USERS_LINK, run_dir
from fl_clients import work
from strategies.wire import pack, put_numbers, unpack

app = ClientApp()


@app.query("rollcall")
def rollcall(message: Message, context: Context) -> Message:
    """Answer the roll call."""
    return _answer(message, work.roll_call(_data_dir(context), _partition(context)))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Stage 1 on this client."""
    shared, task = unpack(message.content)
    place = (_run_dir(context), _data_dir(context), _partition(context))
    return _answer(message, work.train(*place, shared, task["round"], task["last_turn"]))


@app.train("personalize")
def personalize(message: Message, context: Context) -> Message:
    """Stage 2 on this client."""
    shared, _ = unpack(message.content)
    return _answer(message, work.personalize_once(_run_dir(context), _data_dir(context), _partition(context), shared))


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate, at the stage the server asks for."""
    shared, task = unpack(message.content)
    place = (_run_dir(context), _data_dir(context), _partition(context))
    if task["stage"] == "personalised":
        return _answer(message, work.personalize(*place, shared, False))
    return _answer(message, work.evaluate(*place, shared, task["stage"]))


def _answer(message: Message, reply: work.Reply) -> Message:
    content = pack(reply.shared, reply.values)
    put_numbers(content, reply.numbers)
    return Message(content, reply_to=message)


def _partition(context: Context) -> int:
    return int(context.node_config["partition-id"])


def _run_dir(context: Context) -> Path:
    return run_dir(context.run_config, context.run_id)


def _data_dir(context: Context) -> Path:
    return (_run_dir(context) / USERS_LINK).resolve()
