"""The step that the server takes from its tensors towards a round's average (`server.optimizer`)."""

import torch

from configs.errors import RunFailed
from configs.exchange import ServerConfig
from strategies.aggregation.optimizers import ServerOptimizer
from strategies.codecs import minus, plus
from strategies.method import Method, Tensors, travelling

_MEMORY = "optimizer."


class ServerStep:
    """A server optimiser and its memory; without one, the average is the next state."""

    def __init__(self, config: ServerConfig, method: Method, checkpoint: Tensors) -> None:
        """Continue from a checkpoint's tensors."""
        self._method = method
        self._optimizer = None
        if config.optimizer != "none":
            self._optimizer = ServerOptimizer(config.optimizer, config.lr, config.momentum, config.beta2, config.tau)
        self._memory = {
            name.removeprefix(_MEMORY): value for name, value in checkpoint.items() if name.startswith(_MEMORY)
        }

    def apply(self, number: int, before: Tensors, average: Tensors) -> Tensors:
        """Return the next state: the average's, with the shared tensors that the optimiser chooses.

        Δ is taken in wire form (R, D, b for a shift), and what a method promises, such as RRᵀ = I, holds afterwards.

        Args:
            number: The round; an opening (0) takes no step.
            before: The state that the round started from.
            average: The state that the aggregator returned.

        Raises:
            RunFailed: The next state is not finite.
        """
        if self._optimizer is None or number == 0:
            return average
        begin = self._method.to_wire(travelling(before))
        change = minus(self._method.to_wire(travelling(average)), begin)
        step, self._memory = self._optimizer.step(change, self._memory)
        try:
            shared = self._method.from_wire(plus(begin, step))
        except RuntimeError:  # no retraction of what is not finite
            shared = {}
        if not shared or not all(bool(torch.isfinite(value).all()) for value in shared.values()):
            kind, rate = self._optimizer.kind, self._optimizer.lr
            raise RunFailed(
                f"round {number}: the step of server.optimizer='{kind}' is too long; try server.lr < {rate:g}"
            )
        return average | shared

    def saved(self) -> Tensors:
        """Return what a checkpoint needs."""
        return {f"{_MEMORY}{name}": value for name, value in self._memory.items()}
