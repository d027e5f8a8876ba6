"""Several clients side by side in one process: their next training steps become one pass (`engine = "vectorized"`).

Every client's task runs in a greenlet of its own. Where it needs a gradient, or answers to its questions, it pauses;
once all have paused, one pass serves all, with each client's parameters on the rows of its examples, and the tasks go
on. Methods do not know of it. The adapter is the same object for all clients, so a paused task's parameters are put
aside.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import nn
from torch.nn.functional import cross_entropy

from fl_clients.backbone.batches import IGNORED, Example
from fl_clients.evaluate import answer_prompts
from fl_clients.fit import LocalFit, answer_logits
from fl_clients.session import Session
from strategies.by_row import each_row
from strategies.method import Adapter

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
    session.gradient, session.answer, session.clock = group.gradient, group.answer, group.clock
    try:
        return group.run(tasks)
    finally:
        session.gradient, session.answer, session.clock = None, None, time.perf_counter


@dataclass(frozen=True)
class _Step:
    """A paused task waits for the loss of a batch and its gradient."""

    batch: Sequence[Example]
    trained: list[nn.Parameter]

    @property
    def kind(self) -> Hashable:
        """Equal for those that can be one pass."""
        return tuple(map(id, self.trained))


@dataclass(frozen=True)
class _Questions:
    """A paused task waits for answers."""

    prompts: Sequence[list[int]]
    seeds: Sequence[int] | None
    adapter: Adapter | None

    @property
    def kind(self) -> Hashable:
        """Equal for those that can be answered together."""
        return self.adapter is None, self.seeds is None


def _wait_for(request: _Step | _Questions) -> Any:
    """Pause the running task until there is a reply."""
    hub = getcurrent().parent
    assert hub is not None
    return hub.switch(request)


class _Client:
    """One client's task, and the parameters that it has while others run."""

    def __init__(self, task: Task, session: Session, parameters: Sequence[nn.Parameter]) -> None:
        self._greenlet = greenlet(task)
        self._adapter: Any = session.adapter
        self.values = {parameter: parameter.detach().clone() for parameter in parameters}
        self.gradients: dict[nn.Parameter, torch.Tensor | None] = dict.fromkeys(parameters)
        self._trained: dict[nn.Parameter, bool] = dict.fromkeys(parameters, False)
        self._acting = getattr(self._adapter, "acting", None)
        self.request: _Step | _Questions | None = None
        self.result = b""
        self.seconds = 0.0
        """Of its own work, and its share of passes."""

    def go_on(self, *reply: Any) -> None:
        """Run the task until it waits for something or is done; `reply` is what it waited for."""
        self.put_in()
        outcome = self._greenlet.switch(*reply)
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
            alike: dict[Hashable, list[_Client]] = {}
            for client in waiting:
                assert client.request is not None
                alike.setdefault(client.request.kind, []).append(client)
            for some in alike.values():
                for client, reply in zip(some, self._replies(some), strict=True):
                    self._go_on(client, reply)
        return [client.result for client in clients]

    def gradient(self, fit: LocalFit, batch: Sequence[Any], trained: list[nn.Parameter]) -> float:
        """Stand in for `LocalFit.own_gradient`; called inside a client's task."""
        if fit.loss_of or not {*map(id, trained)} <= {*map(id, self._parameters)}:
            return fit.own_gradient(batch, trained)
        return float(_wait_for(_Step(batch, trained)))

    def answer(
        self, session: Session, adapter: Adapter | None, prompts: Sequence[list[int]], seeds: Sequence[int] | None
    ) -> list[str]:
        """Stand in for `answer_prompts`; called inside a client's task."""
        if adapter and not self._modules:
            return answer_prompts(session, adapter, prompts, seeds)
        answers: list[str] = _wait_for(_Questions(prompts, seeds, adapter))
        return answers

    def clock(self) -> float:
        """Return the seconds that the running client has taken, its share of passes included."""
        assert self._running is not None
        return self._running.seconds + time.perf_counter() - self._since

    def _go_on(self, client: _Client, *reply: Any) -> None:
        self._running, self._since = client, time.perf_counter()
        client.go_on(*reply)
        client.seconds = self.clock()

    def _replies(self, clients: Sequence[_Client]) -> list[Any]:
        """Return what the clients wait for, which is of one kind."""
        started = time.perf_counter()
        clients[0].put_in()
        if isinstance(clients[0].request, _Step):
            replies: list[Any] = self._losses(clients)
        else:
            replies = self._answers(clients)
        share = (time.perf_counter() - started) / len(clients)
        for client in clients:
            client.seconds += share
        return replies

    def _losses(self, clients: Sequence[_Client]) -> list[float]:
        """Return the losses of all clients' batches, and set the gradients of each client's parameters."""
        steps = [client.request for client in clients if isinstance(client.request, _Step)]
        trained, adapter = steps[0].trained, self._session.adapter
        examples = [example for step in steps for example in step.batch]
        adapter.train(True)  # a client that has finished its training has turned dropout off
        rows = self._rows([len(step.batch) for step in steps])
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
        return [float(loss) for loss in losses.detach()]

    def _answers(self, clients: Sequence[_Client]) -> list[list[str]]:
        """Return the answers to all clients' questions."""
        asked = [client.request for client in clients if isinstance(client.request, _Questions)]
        adapter = asked[0].adapter
        rows = self._rows([len(one.prompts) for one in asked])
        stacked = self._stacked(clients, ()) if adapter else {}
        if adapter:
            adapter.train(False)

        def batch_of(chosen: list[int]) -> AbstractContextManager[None]:
            return each_row(self._modules, {parameter: values[rows[chosen]] for parameter, values in stacked.items()})

        prompts = [prompt for one in asked for prompt in one.prompts]
        seeds = [seed for one in asked for seed in one.seeds or ()] or None
        answers = iter(answer_prompts(self._session, adapter, prompts, seeds, batch_of))
        return [list(islice(answers, len(one.prompts))) for one in asked]

    def _rows(self, counts: Sequence[int]) -> torch.Tensor:
        """Return each row's client, if the clients have so many rows."""
        clients = torch.arange(len(counts), device=self._session.backbone.device)
        return clients.repeat_interleave(torch.tensor(counts, device=clients.device))

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
