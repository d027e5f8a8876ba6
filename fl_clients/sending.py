"""What leaves a client after training: with noise, masked, or as a codec writes it, if the config says so."""

from dataclasses import dataclass

import numpy as np
import torch

from configs.seeds import derive_seed
from fl_clients.local_privacy import noise_secret, protected
from fl_clients.process.paths import ClientPaths
from fl_clients.secure import SecureClient
from fl_clients.session import Session
from fl_clients.turn import Turn
from strategies.codecs import minus
from strategies.method import Tensors
from strategies.wire import MASKED, Payload


@dataclass(frozen=True)
class Outgoing:
    """A client's update as it is sent."""

    payload: Payload
    owed: Tensors
    """What a codec left out, which the client keeps for its next turn."""
    cut: int = 0
    """Numbers that secure aggregation cut to its limit."""


def outgoing(
    session: Session,
    paths: ClientPaths,
    turn: Turn,
    trained: Tensors,
    received: Tensors,
    store: Tensors,
    user: tuple[str, int],
) -> Outgoing:
    """Return what is sent.

    Args:
        session: The run.
        paths: The client's files.
        turn: What the server said of the round.
        trained: The shared tensors after training.
        received: Those before; empty in an opening, which starts from what everybody knows.
        store: What this client keeps since its last turn.
        user: The user's id, and the number of examples trained on.
    """
    config, (user_id, examples) = session.config, user
    start = received or session.coding.start
    if config.privacy.kind == "local":
        secret = noise_secret(paths, config.seed, turn.round, user_id)
        trained = protected(session.method, trained, start, config.privacy, turn.noise_multiplier, secret)
    if not config.secure.aggregation:
        payload, owed = session.coding.reply(trained, received, store, (turn.round, turn.last_turn), user_id)
        return Outgoing(payload, owed)
    change = minus(session.method.to_wire(trained), session.method.to_wire(start))
    values = torch.cat([change[name].flatten() for name in sorted(change)]).numpy()
    weight = min(1.0, examples / turn.most_examples)
    seed = derive_seed(config.seed, "secure", turn.round, user_id)
    client = SecureClient(paths, config.secure, turn.round)
    masked, cut = client.mask(np.multiply(values, weight), turn.sealed, seed)
    return Outgoing(Payload({MASKED: torch.from_numpy(masked)}), {}, cut)
