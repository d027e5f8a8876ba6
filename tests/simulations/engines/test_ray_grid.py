"""A grid on Ray that cannot get workers says so instead of waiting; what it does with them is in tests/e2e."""

import pytest

from configs.errors import RunFailed
from simulations.engines import ray_grid
from simulations.engines.ray_grid import RayGrid


def refuse() -> None:
    raise OSError("no room for Ray")


def pull(grid: RayGrid) -> None:
    for _ in range(20):
        grid.pull_messages(["1"])


def test_a_ray_that_cannot_start_fails_the_run() -> None:
    grid = RayGrid(1, {}, {"num_cpus": 1.0}, refuse)
    with pytest.raises(RunFailed, match=r"Ray could not be started: (.|\n)*no room for Ray"):
        pull(grid)


def test_a_run_without_workers_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_grid, "_START_S", 0.0)
    monkeypatch.setattr(ray_grid, "pool_size_from_resources", lambda _resources: 1)
    monkeypatch.setattr(RayGrid, "_serve", lambda _self: None)
    grid = RayGrid(1, {}, {"num_cpus": 1.0}, lambda: None)
    with pytest.raises(RunFailed, match="no worker process has started in 0 s; Ray gave no reason"):
        grid.pull_messages(["1"])
