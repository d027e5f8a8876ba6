"""The names of a machine's slices."""

import errno
import fcntl
from pathlib import Path

import pytest

from configs.schema import PartitionsConfig
from fl_clients.process.partition import Partition


@pytest.mark.parametrize(
    ("visible", "name"),
    [
        ("", "gpu0:0"),
        ("1", "gpu1:0"),
        ("3,4", "gpu3:0"),
        ("GPU-8932f937-d72c", "gpuGPU-8932f937-d72c:0"),
        ("MIG-GPU-8932f937/1/0", "gpuMIG-GPU-8932f937-1-0:0"),
    ],
)
def test_every_gpu_has_a_name_of_its_own(
    visible: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = PartitionsConfig(gpus=2, per_client=0.5, cpus=1, cpus_per_client=1)
    first, second = Partition(config, tmp_path), Partition(config, tmp_path)
    assert first.name == name
    # Two clients on one GPU have two slots.
    assert second.name == f"{name.rpartition(':')[0]}:1"


def test_a_client_with_less_than_a_whole_gpu_uses_one_gpu() -> None:
    at_once = [PartitionsConfig(gpus=2, per_client=share, cpus=8).clients_at_once for share in (0.5, 0.6, 1, 2)]
    assert at_once == [4, 2, 2, 1]


def test_a_folder_whose_files_cannot_be_locked_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_handle: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    config = PartitionsConfig(gpus=1, per_client=1, cpus=1, cpus_per_client=1)
    with pytest.raises(OSError, match=r"files cannot be locked here \(No locks available\)"):
        Partition(config, tmp_path / "locks")
