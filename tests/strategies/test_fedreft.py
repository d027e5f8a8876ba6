"""FedReFT by hand: mixing, training and keeping on the client, and the median that the server sends."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from strategies import shifts
from strategies.fedreft import FedReft, geometric_median_weights
from strategies.method import BackboneShape, FitResult, Tensors, TrainRequest

SHAPE = BackboneShape(6, 2, 1000, {})


class Decoder(nn.Module):
    """Two blocks, at a path that `transformers` uses."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])


class AddOneToB:
    """A fit that records the shift and then adds 1 to b; its losses are given."""

    def __init__(self, adapter: Any, losses: Iterable[float]) -> None:
        self.adapter = adapter
        self.losses = iter(losses)
        self.before: list[Tensors] = []

    def __call__(
        self,
        parameters: Iterable[nn.Parameter],
        after: Callable[[], None] = lambda: None,
        _rates: Sequence[float] | None = None,
        /,
    ) -> FitResult:
        self.before.append(shifts.state(self.adapter, "personal", "kept_own"))
        for parameter in parameters:
            if parameter.dim() == 1:
                parameter.data += 1
        after()
        return FitResult(1, 1, 1.0, 1.0)

    def loss(self, _batches: int, /) -> float:
        return next(self.losses)


def turned(tensors: Tensors, prefix: str) -> Tensors:
    """Return the same function in another frame: R, W and b with their two rows swapped."""
    return {prefix + name[name.index(".") :]: value.flip(0) for name, value in tensors.items()}


def test_fedreft_takes_more_of_the_others_the_higher_its_own_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    method = FedReft([0], "all", 1, 1, 1, 0)
    begin = method.server_send(method.server_init(SHAPE), None)
    received = {name.replace("shared_median", "kept_own"): value for name, value in begin.items()}
    others = {name: value + (0.0 if name.endswith("R") else 8.0) for name, value in received.items()}
    loaded: list[float] = []
    monkeypatch.setattr(
        "strategies.shifts.load",
        lambda _adapter, _stage, tensors, _prefix: loaded.append(float(tensors["kept_own.0.b"][0])),
    )
    fit = AddOneToB(None, losses=[3.0, 1.0])
    # The client's own shift, in another frame, has three quarters of the total loss, so its weight is a quarter.
    mixed = method._mix(None, turned(received, "kept_own"), others, fit)  # type: ignore[arg-type]
    assert loaded == [0.0, 8.0]
    torch.testing.assert_close(
        mixed,
        {
            "kept_own.0.R": received["kept_own.0.R"],
            "kept_own.0.W": received["kept_own.0.W"] + 6,
            "kept_own.0.b": torch.tensor([6.0, 6.0]),
        },
    )


def test_fedreft_trains_the_mixed_shift_and_keeps_the_result() -> None:
    method = FedReft([0], "all", 1, 1, 1, 0)
    adapter = method.client_attach(Decoder(), SHAPE)
    sent = method.server_send(method.server_init(SHAPE), None)
    fit = AddOneToB(adapter, losses=[3.0, 1.0])
    first = method.client_train(adapter, TrainRequest(1, sent, {}, fit))
    start = {name.replace("shared_median", "kept_own"): value for name, value in sent.items()}
    torch.testing.assert_close(fit.before[0], start)
    assert first.client_state is not None
    torch.testing.assert_close(
        first.client_state, {name: value + (1.0 if name.endswith("b") else 0.0) for name, value in start.items()}
    )
    torch.testing.assert_close(
        {name.replace("shared_own", "kept_own"): value for name, value in first.shared.items()}, first.client_state
    )
    # The client's shift, b = 1, has three quarters of the total loss: a quarter of it is mixed with the others' b = 0.
    method.client_train(adapter, TrainRequest(2, sent, first.client_state, fit))
    torch.testing.assert_close(fit.before[1]["kept_own.0.b"], torch.tensor([0.25, 0.25]))


def test_fedrefts_median_does_not_depend_on_the_clients_frames() -> None:
    method = FedReft([0], "all", 1, 1, 1, 0)
    state = method.server_init(SHAPE)
    start = method.server_send(state, None)
    aggregator = method.server_aggregator(state, 1)
    # Two clients, in different frames, have the start's function; the third is far away.
    same_function = {name.replace("shared_median", "shared_own"): value for name, value in start.items()}
    far = {name: value + (0.0 if name.endswith("R") else 9.0) for name, value in same_function.items()}
    for user, shared in enumerate((same_function, turned(start, "shared_own"), far)):
        aggregator.add(user, shared, 1)
    state, _ = aggregator.result()
    sent = method.server_send(state, None)
    for name, value in sent.items():
        torch.testing.assert_close(value, start[name], atol=1e-3, rtol=0)


def test_the_geometric_median_by_hand() -> None:
    # For three points on a line it is the middle one, for a square's corners the centre; a far point has little effect.
    line = geometric_median_weights(torch.tensor([[0.0], [1.0], [100.0]]).double())
    assert float(line @ torch.tensor([0.0, 1.0, 100.0]).double()) == pytest.approx(1.0, abs=1e-3)
    square = torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 2.0]]).double()
    assert (geometric_median_weights(square) @ square).tolist() == pytest.approx([1.0, 1.0])
    assert geometric_median_weights(torch.ones(3, 2).double()).tolist() == pytest.approx([1 / 3] * 3)


def test_fedrefts_median_includes_b() -> None:
    method = FedReft([0], "all", 1, 1, 1, 0)
    state = method.server_init(SHAPE)
    start = method.server_send(state, None)
    aggregator = method.server_aggregator(state, 1)
    for user, b in enumerate((0.0, 1.0, 100.0)):
        own = {name: value + b * name.endswith(".b") for name, value in start.items()}
        aggregator.add(user, {name.replace("shared_median", "shared_own"): value for name, value in own.items()}, 1)
    state, _ = aggregator.result()
    # For three points on a line it is the middle one, not the mean, 33.7.
    assert method.server_send(state, None)["shared_median.0.b"].tolist() == pytest.approx([1.0, 1.0], abs=1e-2)


def test_fedreft_sends_each_client_the_median_of_all_others() -> None:
    method = FedReft([0], "all", 1, 1, 1, 0)
    state = method.server_init(SHAPE)
    start = method.server_send(state, 0)
    assert torch.equal(start["shared_median.0.R"], state["server_start.0.R"])
    aggregator = method.server_aggregator(state, 1)
    own = {
        user: {
            name.replace("shared_median", "shared_own"): value + (user + 1.0) * name.endswith(".b")
            for name, value in start.items()
        }
        for user in (0, 1)
    }
    for user, shared in own.items():
        aggregator.add(user, shared, 1)
    state, _ = aggregator.result()
    # With two clients it is the other one's shift, with b moved by 1 and by 2.
    for user, b in ((0, 2.0), (1, 1.0)):
        assert method.server_send(state, user)["shared_median.0.b"].tolist() == pytest.approx([b, b], abs=1e-5)
    # For a newcomer it is over both: every point between two points is a median; here it is their mean.
    assert method.server_send(state, None)["shared_median.0.b"].tolist() == pytest.approx([1.5, 1.5], abs=1e-5)


def test_fedreft_records_how_old_the_shifts_of_its_median_are() -> None:
    method = FedReft([0], "all", 1, 1, 1, 0)
    state = method.server_init(SHAPE)
    own = {name.replace("shared_median", "shared_own"): value for name, value in method.server_send(state, 0).items()}
    for number, users in ((1, (0, 1)), (2, (1, 2)), (5, (2,))):
        aggregator = method.server_aggregator(state, number)
        for user in users:
            aggregator.add(user, own, 1)
        state, figures = aggregator.result()
    # After round 5: user 0 is of round 1, user 1 of round 2, user 2 of this round.
    assert figures == {"mean_age": pytest.approx((4 + 3 + 0) / 3), "largest_age": 4.0}
    assert set(method.server_send(state, 3)) == {"shared_median.0.R", "shared_median.0.W", "shared_median.0.b"}
