"""The server's half of every method that has no stage 1."""

from typing import Any

from strategies.aggregation.mean import TensorMean
from strategies.method import BackboneShape, Method, Tensors, TrainRequest, TrainResult


class SendsNothing(Method):
    """A method in which every user works alone: no shared tensors, no rounds."""

    first_round = None

    def server_init(self, _backbone: BackboneShape) -> Tensors:
        """Return no tensors."""
        return {}

    def server_aggregator(self, state: Tensors, _round_number: int) -> TensorMean:
        """Never called: there is no stage 1."""
        return TensorMean(state)

    def client_train(self, _adapter: Any, _request: TrainRequest) -> TrainResult:
        """Never called: there is no stage 1."""
        raise NotImplementedError
