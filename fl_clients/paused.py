"""A client's task that can pause and leave the process to others (`fl_clients.side_by_side`)."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import nn

from fl_clients.backbone.batches import Example
from strategies.method import Adapter

Task = Callable[[], bytes]


@dataclass(frozen=True)
class Step:
    """A paused task waits for the loss of a batch and its gradient."""

    batch: Sequence[Example]
    trained: list[nn.Parameter]
    acting: Hashable

    @property
    def kind(self) -> Hashable:
        """Equal for those that can be one pass."""
        return (*map(id, self.trained), self.acting)


@dataclass(frozen=True)
class Questions:
    """A paused task waits for answers."""

    prompts: Sequence[list[int]]
    seeds: Sequence[int] | None
    adapter: Adapter | None
    acting: Hashable

    @property
    def kind(self) -> Hashable:
        """Equal for those that can be answered together."""
        return self.adapter is None, self.seeds is None, self.acting


def wait_for(request: Step | Questions) -> Any:
    """Pause the running task until there is a reply."""
    group = getcurrent().parent
    assert group is not None
    return group.switch(request)


class Client:
    """One client's task, and what is its own while others run: parameters, gradients, dropout's generator."""

    def __init__(self, task: Task, adapter: Any, parameters: Sequence[nn.Parameter], device: torch.device) -> None:
        """Take a task that has not begun.

        Args:
            task: Handles one message.
            adapter: The one that all clients use in turn.
            parameters: The adapter's, which each client has its own values of.
            device: Where they are.
        """
        self._greenlet = greenlet(task)
        self._adapter = adapter
        self._draws = _generator(device)
        self.values = {parameter: parameter.detach().clone() for parameter in parameters}
        self.gradients: dict[nn.Parameter, torch.Tensor | None] = dict.fromkeys(parameters)
        self._trained: dict[nn.Parameter, bool] = dict.fromkeys(parameters, False)
        self._acting = acting(adapter)
        self.draws = self._draws.get_state()
        """State of the generator that dropout draws from."""
        self.request: Step | Questions | None = None
        """What it waits for; None: it is done."""
        self.result = b""
        self.seconds = 0.0
        """Of its own work, and its share of passes."""

    def go_on(self, *reply: Any) -> None:
        """Run the task until it waits for something or is done; `reply` is what it waited for."""
        self._run(lambda: self._greenlet.switch(*reply))

    def fail(self, error: Exception) -> None:
        """Raise what it waited for as an exception in the task, and run it on."""
        self._run(lambda: self._greenlet.throw(type(error), error))

    def end(self) -> None:
        """End a task that is not done."""
        if not self._greenlet.dead:
            self.put_in()
            self._greenlet.throw()

    def put_in(self) -> None:
        """Give the adapter this client's parameters."""
        for parameter, value in self.values.items():
            parameter.grad = None
            parameter.data = value
            parameter.grad = self.gradients[parameter]
            parameter.requires_grad_(self._trained[parameter])
        if self._acting is not None and hasattr(self._adapter, "acting"):
            self._adapter.acting = self._acting
        self._draws.set_state(self.draws)

    def _run(self, run: Callable[[], Any]) -> None:
        self.put_in()
        outcome = run()
        self.request, self.result = (None, outcome) if self._greenlet.dead else (outcome, b"")
        for parameter in self.values:
            self.values[parameter], self.gradients[parameter] = parameter.data, parameter.grad
            self._trained[parameter] = parameter.requires_grad
        self._acting = acting(self._adapter)
        self.draws = self._draws.get_state()


def acting(adapter: Any) -> Hashable:
    """Return what acts beside an adapter's parameters; None if clients cannot share it in a pass."""
    return getattr(adapter, "acting", ())


def _generator(device: torch.device) -> torch.Generator:
    """Return the global generator of a device."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
