"""Several clients side by side in one process: their next training steps become one pass (`engine = "vectorized"`).

Every client's task runs in a greenlet of its own. Where it needs a gradient it pauses; once all have paused, one pass
computes the gradients of all, with each client's parameters on the rows of its examples, and the tasks go on. Methods
do not know of it. The adapter is the same object for all clients, so a paused task's parameters are put aside.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import nn
from torch.nn.functional import cross_entropy

from fl_clients.backbone.batches import IGNORED, Example
from fl_clients.fit import LocalFit, answer_logits
from fl_clients.session import Session
from strategies.by_row import each_row

Task = Callable[[], bytes]


def run_together(session: Session, tasks: Sequence[Task]) -> list[bytes]:
    """Run tasks of different clients side by side.

    Args:
        session: The process's session, which the tasks use.
        tasks: Each handles one message, on the same kind of task. None may raise an exception.

    Returns:
        Their results, in their order.
    """
    group = _Group(session)
    session.gradient, session.clock = group.gradient, group.clock
    try:
        return group.run(tasks)
    finally:
        session.gradient, session.clock = None, time.perf_counter


@dataclass(frozen=True)
class _Request:
    """What a paused task waits for: the gradient of a batch's loss."""

    batch: Sequence[Example]
    trained: list[nn.Parameter]


class _Client:
    """One client's task, and the parameters that it has while others run."""

    def __init__(self, task: Task, session: Session, parameters: Sequence[nn.Parameter]) -> None:
        self._greenlet = greenlet(task)
        self._adapter: Any = session.adapter
        self.values = {parameter: parameter.detach().clone() for parameter in parameters}
        self.gradients: dict[nn.Parameter, torch.Tensor | None] = dict.fromkeys(parameters)
        self._trained: dict[nn.Parameter, bool] = dict.fromkeys(parameters, False)
        self._acting = getattr(self._adapter, "acting", None)
        self.request: _Request | None = None
        self.result = b""
        self.seconds = 0.0
        """Of its own work, and its share of passes."""

    def go_on(self, *loss: float) -> None:
        """Run the task until it asks for a gradient or is done; `loss` answers its last request."""
        self.put_in()
        outcome = self._greenlet.switch(*loss)
        self.request, self.result = (None, outcome) if self._greenlet.dead else (outcome, b"")
        for parameter in self.values:
            self.values[parameter], self.gradients[parameter] = parameter.data, parameter.grad
            self._trained[parameter] = parameter.requires_grad
        self._acting = getattr(self._adapter, "acting", None)

    def put_in(self) -> None:
        """Give the adapter this client's parameters."""
        for parameter, value in self.values.items():
            parameter.grad = None
            parameter.data = value
            parameter.grad = self.gradients[parameter]
            parameter.requires_grad_(self._trained[parameter])
        if self._acting is not None:
            self._adapter.acting = self._acting


class _Group:
    """The clients that run side by side."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._modules: Sequence[nn.Module] = getattr(session.adapter, "row_modules", ())
        self._parameters = [value for module in self._modules for value in module.parameters(recurse=False)]
        self._running: _Client | None = None
        self._since = 0.0

    def run(self, tasks: Sequence[Task]) -> list[bytes]:
        clients = [_Client(task, self._session, self._parameters) for task in tasks]
        for client in clients:
            self._go_on(client)
        while waiting := [client for client in clients if client.request]:
            # Those of one kind of task train the same parameters, unless a method treats some users differently.
            alike: dict[tuple[int, ...], list[_Client]] = {}
            for client in waiting:
                assert client.request is not None
                alike.setdefault(tuple(map(id, client.request.trained)), []).append(client)
            for some in alike.values():
                for client, loss in zip(some, self._pass(some), strict=True):
                    self._go_on(client, loss)
        return [client.result for client in clients]

    def gradient(self, fit: LocalFit, batch: Sequence[Any], trained: list[nn.Parameter]) -> float:
        """Stand in for `LocalFit.own_gradient`; called inside a client's task."""
        if fit.loss_of or not {*map(id, trained)} <= {*map(id, self._parameters)}:
            return fit.own_gradient(batch, trained)
        hub = getcurrent().parent
        assert hub is not None
        return float(hub.switch(_Request(batch, trained)))

    def clock(self) -> float:
        """Return the seconds that the running client has taken, its share of passes included."""
        assert self._running is not None
        return self._running.seconds + time.perf_counter() - self._since

    def _go_on(self, client: _Client, *loss: float) -> None:
        self._running, self._since = client, time.perf_counter()
        client.go_on(*loss)
        client.seconds = self.clock()

    def _pass(self, clients: Sequence[_Client]) -> list[float]:
        """Compute the losses of all clients' batches, and the gradients of each client's parameters."""
        started = time.perf_counter()
        requests = [client.request for client in clients if client.request]
        trained, adapter = requests[0].trained, self._session.adapter
        examples = [example for request in requests for example in request.batch]
        clients[0].put_in()
        adapter.train(True)  # a client that has finished its training has turned dropout off
        device = self._parameters[0].device
        rows = torch.tensor([n for n, request in enumerate(requests) for _ in request.batch], device=device)
        stacked = self._stacked(clients, trained)
        with each_row(self._modules, {parameter: values[rows] for parameter, values in stacked.items()}):
            logits, labels = answer_logits(self._session.forward, adapter, examples)
        losses = _mean_by_client(logits, labels, rows, len(clients))
        losses.sum().backward()
        for parameter in trained:
            gradients = stacked[parameter].grad
            assert gradients is not None
            for client, gradient in zip(clients, gradients, strict=True):
                client.gradients[parameter] = gradient
        share = (time.perf_counter() - started) / len(clients)
        for client in clients:
            client.seconds += share
        return [float(loss) for loss in losses.detach()]

    def _stacked(self, clients: Sequence[_Client], trained: Sequence[nn.Parameter]) -> dict[nn.Parameter, torch.Tensor]:
        """Return the parameters in which clients differ, [clients, *shape], the trained ones to take a gradient."""
        found: dict[nn.Parameter, torch.Tensor] = {}
        for parameter in trained:
            found[parameter] = torch.stack([client.values[parameter] for client in clients]).requires_grad_()
        for parameter in self._parameters:
            first, *rest = (client.values[parameter] for client in clients)
            if parameter not in found and not all(torch.equal(first, value) for value in rest):
                found[parameter] = torch.stack([first, *rest])
        return found


def _mean_by_client(logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor, clients: int) -> torch.Tensor:
    """Return each client's mean cross-entropy over its answer tokens, [clients]; `rows` has each example's client."""
    losses = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none").sum(dim=1)
    tokens = (labels != IGNORED).sum(dim=1)
    nothing = losses.new_zeros(clients)
    return nothing.index_add(0, rows, losses) / nothing.index_add(0, rows, tokens.to(losses.dtype))
