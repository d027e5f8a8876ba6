"""The server half of a run, without clients."""

from pathlib import Path
from typing import Any

import torch

from configs.load import write_config
from fl_server.record.checkpoint import Checkpoint, save_checkpoint
from fl_server.run import FederatedRun
from tests.conftest import tiny_config


def test_the_server_computes_with_the_configured_threads(tmp_path: Path) -> None:
    # Sums split over threads round differently, such as the function average of 20 clients at d = 576 in float64.
    write_config(tiny_config("partitions.cpus_per_client=1"), tmp_path / "config.toml")
    save_checkpoint(tmp_path, Checkpoint(), {})
    nowhere: Any = None
    torch.set_num_threads(2)
    FederatedRun(tmp_path, nowhere)
    assert torch.get_num_threads() == 1
