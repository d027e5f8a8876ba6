"""Clients whose training steps are one pass train as they would alone."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from configs.training import FitConfig
from fl_clients.backbone.batches import IGNORED, Example
from fl_clients.backbone.forward import Forward
from fl_clients.backbone.load import Backbone
from fl_clients.fit import LocalFit
from fl_clients.side_by_side import _mean_by_client, run_together
from strategies.perfit import PerFit
from strategies.shifts.sites import SiteShifts

METHOD = PerFit([1, 2], "all", 4, 2, True, "mean", 0)
SETTINGS = FitConfig(batch_size=2, epochs=2, lr=0.02)
# Different lengths and numbers of items: two, four and six steps.
USERS = [
    [Example([5, 6, 7], [8, 0]), Example([9, 10], [14, 15, 0])],
    [Example([n, n + 1], [n + 2, 0]) for n in (20, 30, 40)],
    [Example([60 + n] * (n + 1), [70, 0]) for n in range(6)],
]


@pytest.fixture
def session(tiny: Backbone) -> Any:
    for block in tiny.model.model.layers:
        block._forward_hooks.clear()
    adapter = METHOD.client_attach(tiny.model, tiny.shape)
    clock = time.perf_counter
    return SimpleNamespace(
        adapter=adapter, forward=Forward(tiny, None), gradient=None, answer=None, clock=clock, backbone=tiny
    )


def trained(session: Any, user: int, kept: dict[int, Any], b: float = 0.0) -> Callable[[], bytes]:
    """A client's task: load a start of its own, train, keep the outcome."""

    def task() -> bytes:
        shared = METHOD.server_init(session.backbone.shape)
        METHOD.client_load(session.adapter, {n: v + (b or user) * (n[-1] == "b") for n, v in shared.items()}, None)
        adapter: SiteShifts = session.adapter
        shift = adapter.shift("collective", "1")
        begun = session.clock()
        fit = LocalFit(session.forward, adapter, USERS[user], SETTINGS, seed=user, gradient=session.gradient)
        try:
            result = fit([shift.R, shift.D, shift.b], shift.retract)
        except FloatingPointError as error:
            return str(error).encode()
        kept[user] = (result, [value.clone() for value in (shift.R, shift.D, shift.b)], session.clock() - begun)
        return str(user).encode()

    return task


def test_three_clients_train_side_by_side_as_each_would_alone(session: Any) -> None:
    alone: dict[int, Any] = {}
    together: dict[int, Any] = {}
    for user in range(3):
        trained(session, user, alone)()
    assert run_together(session, [trained(session, user, together) for user in range(3)]) == [b"0", b"1", b"2"]
    assert [together[user][0].steps for user in range(3)] == [2, 4, 6]
    for user in range(3):
        assert together[user][0].loss_last == pytest.approx(alone[user][0].loss_last, abs=1e-5)
        for ours, theirs in zip(together[user][1], alone[user][1], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    # They differ, so none trained another one's tensors.
    assert not torch.allclose(together[0][1][1], together[1][1][1], atol=1e-3)


def test_one_pass_serves_all_that_wait(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = session.forward.run

    def counted(adapter: Any, examples: Any, *more: Any, **options: Any) -> Any:
        rows.append(len(examples))
        return original(adapter, examples, *more, **options)

    monkeypatch.setattr(session.forward, "run", counted)
    run_together(session, [trained(session, user, {}) for user in range(3)])
    # Of 2, 3 and 6 examples in batches of 2: the shorter ones are done after two and four steps.
    assert len(rows) == 6
    assert sum(rows) == 2 * (2 + 3 + 6)
    assert rows[-1] == 2


def test_a_client_that_fails_costs_no_other_client_anything(session: Any) -> None:
    alone: dict[int, Any] = {}
    together: dict[int, Any] = {}
    trained(session, 1, alone)()
    tasks = [trained(session, 0, together, float("nan")), trained(session, 1, together)]
    broken, fine = run_together(session, tasks)
    assert broken == b"the loss is nan at step 1; try a lower lr"
    assert fine == b"1"
    torch.testing.assert_close(together[1][1], alone[1][1], atol=1e-5, rtol=0)


def test_a_pass_that_fails_costs_only_the_client_whose_fault_it_is(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = session.forward.run

    def broken(adapter: Any, examples: Any, *more: Any, **options: Any) -> Any:
        if any(example.prompt[0] == 5 for example in examples):
            raise FloatingPointError("a broken example")
        return original(adapter, examples, *more, **options)

    monkeypatch.setattr(session.forward, "run", broken)
    results = run_together(session, [trained(session, user, {}) for user in range(3)])
    assert results == [b"a broken example", b"1", b"2"]


def test_an_interruption_ends_every_task(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session.forward, "run", interrupt)
    ended: list[int] = []

    def watched(user: int) -> Callable[[], bytes]:
        def task() -> bytes:
            try:
                return trained(session, user, {})()
            finally:
                ended.append(user)

        return task

    with pytest.raises(KeyboardInterrupt):
        run_together(session, [watched(user) for user in range(3)])
    assert sorted(ended) == [0, 1, 2]
    assert not any(parameter.requires_grad for parameter in session.adapter.parameters())


def test_a_training_with_hooks_on_its_parameters_is_a_clients_own(session: Any) -> None:
    calls: list[int] = []

    def hooked(user: int) -> Callable[[], bytes]:
        def task() -> bytes:
            b = session.adapter.shift("collective", "1").b.requires_grad_(True)
            handle = b.register_hook(lambda _gradient: calls.append(user))
            try:
                return trained(session, user, {})()
            finally:
                handle.remove()

        return task

    run_together(session, [hooked(user) for user in range(2)])
    assert calls == [0] * 2 + [1] * 4


def test_a_mean_loss_is_as_exact_as_one_alone_with_a_large_vocabulary() -> None:
    logits = 8 * torch.randn(2, 3, 50_000, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[5, 9, 7], [IGNORED, 3, 4]])
    means = _mean_by_client(logits, labels, torch.tensor([0, 1]), 2)
    for row in range(2):
        exact = cross_entropy(logits[row].double(), labels[row], ignore_index=IGNORED)
        assert float(means[row]) == pytest.approx(float(exact), abs=3e-6)


def test_the_clients_seconds_add_up_to_the_groups(session: Any) -> None:
    kept: dict[int, Any] = {}
    started = time.perf_counter()
    run_together(session, [trained(session, user, kept) for user in range(3)])
    passed = time.perf_counter() - started
    assert 0 < sum(seconds for _, _, seconds in kept.values()) <= passed
    assert session.gradient is None
    assert session.clock is time.perf_counter
