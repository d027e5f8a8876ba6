"""A loop over the clients, no framework: load the adapter, train, add up."""

import sys
import time
from pathlib import Path

from benchmarks.peers.work import Work, read_users


def main(backbone: Path, file: Path, clients: int) -> None:
    """Run two rounds and print the second one's seconds."""
    work, users = Work(backbone), read_users(file, clients)
    shared = work.state()
    for _ in range(2):
        started = time.perf_counter()
        sums = [value * 0 for value in shared]
        for examples in users:
            work.load(shared)
            work.train(examples)
            sums = [total + value for total, value in zip(sums, work.state(), strict=True)]
        shared = [total / clients for total in sums]
        seconds = time.perf_counter() - started
    print(seconds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
