"""Several clients side by side in one process: their next training steps become one pass (`engine = "vectorized"`).

Every client's task runs in a greenlet of its own. Where it needs a gradient, or answers to its questions, it pauses;
once all have paused, one pass serves all, with each client's parameters on the rows of its examples, and the tasks go
on. Methods do not know of it. The adapter is the same object for all clients, so a paused task's parameters are put
aside. What a pass cannot do for several clients, a task does alone, without pausing.
"""

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fl_clients.backbone.batches import IGNORED
from fl_clients.evaluate import answer_prompts
from fl_clients.fit import LocalFit, answer_logits
from fl_clients.paused import Client, Questions, Step, Task, acting, wait_for
from fl_clients.session import Session
from strategies.by_row import each_row
from strategies.method import Adapter


def run_together(session: Session, tasks: Sequence[Task]) -> list[bytes]:
    """Run tasks of different clients side by side.

    Args:
        session: The process's session, which the tasks use.
        tasks: Each handles one message, on the same kind of task. None may raise an `Exception`.

    Returns:
        Their results, in their order.
    """
    group = _Group(session)
    session.gradient, session.answer, session.clock = group.gradient, group.answer, group.clock
    try:
        return group.run(tasks)
    finally:
        session.gradient, session.answer, session.clock = None, None, time.perf_counter


class _Group:
    """The clients that run side by side."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._device = session.backbone.device
        self._modules = _row_modules(session.adapter)
        self._parameters = [value for module in self._modules for value in module.parameters(recurse=False)]
        self._running: Client | None = None
        self._since = 0.0

    def run(self, tasks: Sequence[Task]) -> list[bytes]:
        clients = [Client(task, self._session.adapter, self._parameters, self._device) for task in tasks]
        try:
            for client in clients:
                self._run(client, client.go_on)
            while waiting := [client for client in clients if client.request]:
                alike: dict[Hashable, list[Client]] = {}
                for client in waiting:
                    assert client.request is not None
                    alike.setdefault(client.request.kind, []).append(client)
                for some in alike.values():
                    self._serve(some)
        finally:
            for client in clients:
                client.end()
        return [client.result for client in clients]

    def gradient(self, fit: LocalFit, batch: Sequence[Any], trained: list[nn.Parameter]) -> float:
        """Stand in for `LocalFit.own_gradient`; called inside a client's task."""
        known = {*map(id, trained)} <= {*map(id, self._parameters)}
        acts = acting(self._session.adapter)
        # A pass takes gradients of stacked copies, on which no hook of a parameter is called.
        if fit.loss_of or not known or acts is None or any(parameter._backward_hooks for parameter in trained):
            return fit.own_gradient(batch, trained)
        return float(wait_for(Step(batch, trained, acts)))

    def answer(
        self, session: Session, adapter: Adapter | None, prompts: Sequence[list[int]], seeds: Sequence[int] | None
    ) -> list[str]:
        """Stand in for `answer_prompts`; called inside a client's task."""
        acts = acting(adapter)
        if adapter and (not self._modules or acts is None):
            return answer_prompts(session, adapter, prompts, seeds)
        answers: list[str] = wait_for(Questions(prompts, seeds, adapter, acts))
        return answers

    def clock(self) -> float:
        """Return the seconds that the running client has taken, its share of passes included."""
        assert self._running is not None
        return self._running.seconds + time.perf_counter() - self._since

    def _run(self, client: Client, part: Callable[[], None]) -> None:
        """Run a part of a client's task, and count its seconds."""
        self._running, self._since = client, time.perf_counter()
        part()
        client.seconds = self.clock()

    def _serve(self, clients: Sequence[Client]) -> None:
        """Give clients that wait for one kind of thing what they wait for, and let them go on."""
        started = time.perf_counter()
        try:
            clients[0].put_in()
            stepping = isinstance(clients[0].request, Step)
            replies: list[Any] = self._losses(clients) if stepping else self._answers(clients)
        except Exception as error:
            # It may be one client's fault, or memory for one may be enough.
            if len(clients) > 1:
                for client in clients:
                    self._serve([client])
            else:
                self._run(clients[0], partial(clients[0].fail, error))
            return
        share = (time.perf_counter() - started) / len(clients)
        for client in clients:
            client.seconds += share
        for client, reply in zip(clients, replies, strict=True):
            self._run(client, partial(client.go_on, reply))

    def _losses(self, clients: Sequence[Client]) -> list[float]:
        """Return the losses of all clients' batches, and set the gradients of each client's parameters."""
        steps = [client.request for client in clients if isinstance(client.request, Step)]
        trained, adapter = steps[0].trained, self._session.adapter
        adapter.train(True)  # a client that has finished its training has turned dropout off
        dropout = _Dropout([(client.draws, step) for client, step in zip(clients, steps, strict=True)], self._device)
        rows = self._rows([len(step.batch) for step in steps])
        stacked = self._stacked(clients, trained)
        with each_row(self._modules, {parameter: values[rows] for parameter, values in stacked.items()}, dropout):
            examples = [example for step in steps for example in step.batch]
            logits, labels = answer_logits(self._session.forward, adapter, examples)
        losses = _mean_by_client(logits, labels, rows, len(clients))
        losses.sum().backward()
        for client, draws in zip(clients, dropout.states(), strict=True):
            client.draws = draws
        for parameter in trained:
            gradients = stacked[parameter].grad
            assert gradients is not None
            for client, gradient in zip(clients, gradients, strict=True):
                client.gradients[parameter] = gradient
        return [float(loss) for loss in losses.detach()]

    def _answers(self, clients: Sequence[Client]) -> list[list[str]]:
        """Return the answers to all clients' questions."""
        asked = [client.request for client in clients if isinstance(client.request, Questions)]
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
        clients = torch.arange(len(counts), device=self._device)
        return clients.repeat_interleave(torch.tensor(counts, device=self._device))

    def _stacked(self, clients: Sequence[Client], trained: Sequence[nn.Parameter]) -> dict[nn.Parameter, torch.Tensor]:
        """Return the parameters in which clients differ, [clients, *shape], the trained ones to take a gradient."""
        stacks: dict[nn.Parameter, torch.Tensor] = {}
        for parameter in trained:
            stacks[parameter] = torch.stack([client.values[parameter] for client in clients]).requires_grad_()
        for parameter in self._parameters:
            first, *rest = (client.values[parameter] for client in clients)
            if parameter not in stacks and not all(torch.equal(first, value) for value in rest):
                stacks[parameter] = torch.stack([first, *rest])
        return stacks


class _Dropout:
    """Draws every client's dropout from its own generator, in the shape of its own batch, as it would alone."""

    def __init__(self, clients: Sequence[tuple[torch.Tensor, Step]], device: torch.device) -> None:
        self._clients: list[tuple[torch.Generator, int, int]] = []
        for state, step in clients:
            generator = torch.Generator(device)
            generator.set_state(state)
            self._clients.append((generator, len(step.batch), max(map(len, step.batch))))

    def __call__(self, probability: float, inputs: torch.Tensor) -> torch.Tensor:
        """Return inputs [rows, length, n], right-aligned, some of them 0 and the others scaled."""
        kept = torch.zeros_like(inputs)
        first = 0
        for generator, rows, length in self._clients:
            drawn = torch.empty(rows, length, inputs.shape[-1], dtype=inputs.dtype, device=inputs.device)
            kept[first : first + rows, -length:] = drawn.bernoulli_(1 - probability, generator=generator)
            first += rows
        return inputs * kept.div_(1 - probability)

    def states(self) -> list[torch.Tensor]:
        """Return the states of the clients' generators."""
        return [generator.get_state() for generator, _, _ in self._clients]


def _row_modules(adapter: Any) -> Sequence[nn.Module]:
    """Return the modules whose parameters may have a value for each row; none if they do not hold all of their own."""
    modules: Sequence[nn.Module] = getattr(adapter, "row_modules", ())
    whole = all(len([*module.parameters(recurse=False)]) == len([*module.parameters()]) for module in modules)
    return modules if whole else ()


def _mean_by_client(logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor, clients: int) -> torch.Tensor:
    """Return each client's mean cross-entropy over its answer tokens, [clients]; `rows` has each example's client."""
    # Over the last dimension: over another one, PyTorch adds up a large vocabulary less exactly.
    each = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    losses = each.view_as(labels).sum(dim=1)
    tokens = (labels != IGNORED).sum(dim=1)
    nothing = losses.new_zeros(clients)
    return nothing.index_add(0, rows, losses) / nothing.index_add(0, rows, tokens.to(losses.dtype))
