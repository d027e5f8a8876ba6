"""A client's share of a machine: its threads, its part of a GPU, and its memory use."""

import contextlib
import fcntl
import os
import resource
from pathlib import Path

import torch

from configs.paths import NODE
from configs.schema import PartitionsConfig


class Partition:
    """This process's share of the machine, claimed once per process."""

    def __init__(self, config: PartitionsConfig, locks: Path) -> None:
        """Set the thread count, claim a slot and enforce the memory share on a real GPU.

        Args:
            config: Threads and GPU share per client.
            locks: Folder where the run's processes claim GPU slots.
        """
        torch.set_num_threads(config.cpus_per_client)
        self._lock: int | None = None
        node = f"{os.environ[NODE]}/" if NODE in os.environ else ""
        self.name = f"{node}cpu"
        if config.gpus:
            gpu = self._gpu()
            self.name = f"{node}gpu{gpu}:{self._claim(locks / node, gpu)}"
        self._cuda = config.gpus > 0 and torch.cuda.is_available()
        if self._cuda and config.per_client <= 1:
            torch.cuda.set_per_process_memory_fraction(config.per_client)

    def reset_peak(self) -> None:
        """Reset the measurement of peak memory."""
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError):
            # On Linux, writing 5 resets the process's peak resident size.
            Path("/proc/self/clear_refs").write_text("5")

    def peak_memory(self) -> int:
        """Return the peak since `reset_peak` in bytes: GPU memory if the process uses a GPU, else resident memory."""
        if self._cuda:
            return int(torch.cuda.max_memory_allocated())
        try:
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _gpu(self) -> str:
        """Return the GPU that Ray assigned to this actor, by number or by its own name; 0 outside Ray."""
        return os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip().replace("/", "-") or "0"

    def _claim(self, locks: Path, gpu: str) -> int:
        """Claim the lowest free slot of a GPU. The kernel frees it when the process ends, even if it is killed."""
        locks.mkdir(parents=True, exist_ok=True)
        slot = 0
        while True:
            handle = os.open(locks / f"gpu{gpu}-slot{slot}.lock", os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = handle
                return slot
            except BlockingIOError:
                os.close(handle)
                slot += 1
            except OSError as error:
                os.close(handle)
                raise OSError(error.errno, f"files cannot be locked here ({error.strerror})", str(locks)) from None
