"""A method of your own: federated LoRA whose server moves only half of the way to the clients' average.

`python examples/own_method.py` simulates it. With a TOML file beside it that says `method = "own_method:HalfWayLora"`,
`fedperfit compare lora-c half_way.toml` compares it with others; docs/your-method.md explains the parts.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from fedperfit import load_config, simulate
from strategies import lora
from strategies.aggregation.mean import TensorMean
from strategies.lora.adapters import LoraAdapters
from strategies.method import BackboneShape, Method, Tensors, TrainRequest, TrainResult

TINY = Path(__file__).parents[1] / "configs" / "experiments" / "tiny.toml"


class HalfWay(TensorMean):
    """θ ← (θ + θ̄) / 2, where θ̄ is the clients' weighted mean."""

    def __init__(self, state: Tensors) -> None:
        """Keep where the round starts."""
        super().__init__(state)
        self._start = state

    def result(self) -> tuple[Tensors, Mapping[str, float]]:
        """Return the point half of the way."""
        mean, figures = super().result()
        return {name: (old + mean[name]) / 2 for name, old in self._start.items()}, figures


class HalfWayLora(Method):
    """LoRA of rank 4 on q and v, averaged by `HalfWay`; nothing is personal."""

    name = "half-way"
    first_round = 1

    def __init__(self, seed: int) -> None:
        """Take the run's seed; other config keys come by naming them, and `[settings]` of a TOML file."""
        self.lora = lora.LoraSettings(4, 4, 0.0, ("q_proj", "v_proj"), ())
        self.seed = seed

    def server_init(self, backbone: BackboneShape) -> Tensors:
        """Return A from the seed and B = 0."""
        return lora.start(self.lora.on(backbone), backbone, lora.SHARED, self.seed, lora.COLLECTIVE)

    def server_aggregator(self, state: Tensors, _round_number: int) -> HalfWay:
        """Return the aggregator of one round."""
        return HalfWay(state)

    def client_attach(self, model: nn.Module, backbone: BackboneShape) -> LoraAdapters:
        """Attach the adapter to the frozen model."""
        return lora.attach(model, {lora.COLLECTIVE: self.lora.on(backbone)})

    def client_train(self, adapter: LoraAdapters, request: TrainRequest) -> TrainResult:
        """Train A and B on one user's texts."""
        return lora.train_shared(adapter, request)

    def client_load(self, adapter: LoraAdapters, shared: Tensors, _private: Tensors | None) -> None:
        """Set A and B for answering."""
        adapter.load(lora.COLLECTIVE, shared, lora.SHARED)
        adapter.use(lora.COLLECTIVE)


if __name__ == "__main__":
    config = load_config(TINY, ["method=own_method:HalfWayLora"])
    here = str(Path(__file__).parent)  # clients import the method from there
    record = simulate(config, "example-own-method", overwrite=True, import_path=[here])
    print(f"{record.method}: {record.params.shared} shared numbers, {record.bytes.total / 1e3:.0f} kB in all")
