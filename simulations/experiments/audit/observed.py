"""What an attacker observes: losses of a run's models on users' items, and the updates that clients would send."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from configs.exchange import ServerConfig, WireConfig
from configs.load import write_config
from configs.secure import SecureConfig
from fl_clients import handlers
from fl_clients.backbone.batches import Encoder
from fl_clients.backbone.forward import Forward
from fl_clients.lamp.tasks import find_task
from fl_clients.lamp.user import Pair
from fl_clients.preferences import answer_log_probabilities
from fl_clients.process.paths import ClientPaths
from fl_clients.turn import Turn
from fl_server.record.folder import RunFolder
from simulations.run.served import ServedModel
from strategies.codecs import minus
from strategies.method import Tensors
from strategies.wire import Payload


@dataclass(frozen=True)
class Losses:
    """Losses of a model on texts, nats per token of the answer."""

    model: ServedModel

    def of(self, pairs: Sequence[Pair], adapted: bool) -> np.ndarray:
        """Return the loss of every pair whose answer fits, with the adapter or with the bare backbone."""
        model = self.model
        encoder = Encoder(find_task(model.config.task), model.backbone.tokenizer)
        examples = encoder.examples(pairs, model.config.personal.max_tokens)
        forward, size = Forward(model.backbone, None), model.config.evaluate.batch_size
        losses: list[np.ndarray] = [np.zeros(0)]
        for begin in range(0, len(examples), size):
            batch = examples[begin : begin + size]
            adapter = model.adapter if adapted else None
            lengths = torch.tensor([len(example.answer) for example in batch])
            with torch.no_grad():
                losses.append((-answer_log_probabilities(forward, adapter, batch).cpu() / lengths).double().numpy())
        return np.concatenate(losses)

    def gained(self, pairs: Sequence[Pair]) -> np.ndarray:
        """Return base loss − loss of every pair: how much better the model knows it than the bare backbone."""
        difference: np.ndarray = self.of(pairs, False) - self.of(pairs, True)
        return difference


def turns(model: ServedModel, files: RunFolder, data: Path, users: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return what users would send in the last two rounds if they started from the run's final tensors.

    Without a codec, which would only take something away; with the run's local noise.

    Args:
        model: The collective part of the run.
        files: The run.
        data: The folder of its user table.
        users: Partition ids.

    Returns:
        Two arrays [users, numbers], in the method's wire form.
    """
    update = {"wire": WireConfig(), "server": ServerConfig(), "secure": SecureConfig()}
    last = max(2, files.config.rounds)  # two turns of one round would be the same
    config = files.config.model_copy(update={**update, "rounds": last})
    spent = files.record.privacy
    noise = spent.noise_multiplier if spent and spent.kind == "local" else 0.0
    begin = model.method.to_wire(model.shared)
    rows: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    with tempfile.TemporaryDirectory() as scratch:
        write_config(config, Path(scratch) / "config.toml")
        for user in users:
            paths = ClientPaths(Path(scratch), data, user)
            for of_turn, number in zip(rows, (last - 1, last), strict=True):
                reply = handlers.train(paths, Payload(dict(model.shared)), Turn(number, noise_multiplier=noise))
                assert reply.payload is not None
                of_turn.append(_flat(minus(model.method.to_wire(reply.payload.tensors), begin)))
    return np.stack(rows[0]), np.stack(rows[1])


def _flat(tensors: Tensors) -> np.ndarray:
    return np.concatenate([tensors[name].double().numpy().ravel() for name in sorted(tensors)])
