"""What codecs cost beside the training whose messages they write: `python -m benchmarks.codecs RECORD`.

Takes initial tensors of the sizes of a completed run's, changes them at random, and times each codec's way up (write on
the client, read on the server) and down (write once on the server, read on the client), with the conversion of the
tensors. Seconds are compared with the run's mean seconds of a client's training, so record and benchmark should come
from one machine.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

import pyarrow.compute as pc
import torch

from fl_clients.backbone.load import read_shape
from fl_server.record.folder import RunFolder
from simulations.run.preflight import build_method
from strategies.codecs import EXACT, Copies, Reference, change_name, find_codec
from strategies.method import Method, Tensors, travelling

CODECS = ("fp32", "fp16", "bf16", "int8", "int4", "sign", "drive", "top-k 0.01", "ternary 0.01")


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of a call."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times)


def message(method: Method, shared: Tensors, codec_name: str, repeats: int) -> dict[str, float]:
    """Return the bytes of a coded message, and the seconds to write and to read it."""
    codec = find_codec(codec_name)
    reference = Reference(1, method.to_wire(shared))
    generator = torch.Generator().manual_seed(0)
    after = {name: value + 1e-3 * torch.randn(value.shape, generator=generator) for name, value in shared.items()}
    blob = reference.write_change(codec, method.to_wire(after), 0)
    received, copies = {change_name(2): blob}, Copies(find_codec(EXACT), {})
    return {
        "bytes": len(blob),
        "write_s": seconds(lambda: reference.write_change(codec, method.to_wire(after), 0), repeats),
        "read_s": seconds(lambda: method.from_wire(reference.receive(codec, received, copies).tensors), repeats),
    }


def measure(record: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Return each codec's figures, and both ways' share of one client's training time."""
    files = RunFolder(record)
    config = files.config
    shape = read_shape(config.backbone)
    method = build_method(config, shape)
    clients = files.clients(["phase", "wall_s"])
    visit = mean(clients.filter(pc.equal(clients["phase"], "train"))["wall_s"].to_pylist())
    shared = travelling(method.server_init(shape))
    by_codec = {name: message(method, shared, name, repeats) for name in CODECS}
    return {
        name: figures | {"share": 2 * (figures["write_s"] + figures["read_s"]) / visit}
        for name, figures in by_codec.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    by_codec = measure(args.record, args.repeats)
    if args.json:
        print(json.dumps(by_codec, indent=1))
        return
    print(f"{'codec':<14}{'bytes':>10}{'write, ms':>11}{'read, ms':>10}{'of a training':>15}")
    for name, figures in by_codec.items():
        times = f"{figures['write_s'] * 1e3:>11.1f}{figures['read_s'] * 1e3:>10.1f}"
        print(f"{name:<14}{figures['bytes']:>10,}{times}{figures['share']:>15.2%}")


if __name__ == "__main__":
    main()
