"""Apple's pfl: FederatedAveraging in one process (PyTorch)."""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel

from benchmarks.peers.work import LR, Work, read_users


class Module(torch.nn.Module):
    """What pfl asks of a model."""

    def __init__(self, work: Work, users: list[list[list[str]]]) -> None:
        super().__init__()
        self.model, self._work, self._users = work.model, [work], users

    def loss(self, client: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.model(**self._work[0].batch(self._users[int(client[0])])).loss
        return loss

    def metrics(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {}


class Clock(TrainingProcessCallback):
    """Notes when iterations end."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Metrics]:
        self.ended.append(time.perf_counter())
        return False, Metrics()


def main(backbone: Path, file: Path, clients: int) -> None:
    """Run two rounds and print the second one's seconds."""
    work, users = Work(backbone), read_users(file, clients)
    trainable = work.parameters
    model = PyTorchModel(
        Module(work, users),
        local_optimizer_create=lambda _parameters, lr: torch.optim.AdamW(trainable, lr=lr),
        central_optimizer=torch.optim.SGD(trainable, lr=1.0),
    )
    numbers = iter(range(10**9))
    data = FederatedDataset(
        # One row per example, so that pfl's one batch is a client's; texts are no tensors.
        lambda user: Dataset([torch.full((len(users[user]),), user)], user_id=str(user)),
        user_sampler=lambda: next(numbers) % clients,
    )
    clock = Clock()
    settings = NNAlgorithmParams(
        central_num_iterations=2, evaluation_frequency=1000, train_cohort_size=clients, val_cohort_size=0
    )
    local = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=LR, local_batch_size=None)
    FederatedAveraging().run(
        algorithm_params=settings,
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        model_train_params=local,
        callbacks=[clock],
    )
    print(clock.ended[-1] - clock.ended[-2])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
