"""Compares the ledger with the bytes on the wire in a real federation on loopback, including TLS and polling.

`python -m benchmarks.wire` deploys four devices, each behind a proxy that counts TCP bytes, and runs PerFit and OPPU
with two message sizes each on a random decoder as wide as the default backbone. For each direction it fits, over all
devices and runs,

    wire - idle rate * seconds = factor * (message bytes - repeated) + a * messages + b * tensors + c

`repeated` counts the tensors of the first round's download that equal another one in the same message (PerFit starts
with W = R, LoRA with B = 0); Flower sends equal objects once. Prints the fit with its residuals, and writes
`results/bench-wire.json`.
"""

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.federation import CountingProxy, Federation
from benchmarks.ports import free_port
from configs.load import load_config
from configs.schema import RunConfig
from fl_clients.backbone.builtin import fetch
from fl_clients.backbone.load import read_shape
from fl_server.record.schema import read_run
from simulations.federation.deploy import deploy
from simulations.run.preflight import build_method

RUNS = {
    "perfit, ranks 32 and 4": ["method=perfit", "sites=[1,2]", "rank.shared=32", "rank.private=4"],
    "perfit, ranks 8 and 2": ["method=perfit", "sites=[1,2]", "rank.shared=8", "rank.private=2"],
    "oppu, rank 8": ["method=oppu", "settings.rank=8"],
    "oppu, rank 32": ["method=oppu", "settings.rank=32", "settings.alpha=32"],
}
_USERS = ["users.collective=3", "users.target=1", "cohort=2", "rounds=3", "precision=fp32"]
# Several steps per task: after a single step LoRA's A is unchanged, and Flower would not send it back.
_SMALL = ["users.synthetic.history=4", "users.synthetic.queries=2", "personal.epochs=1", "local.batch_size=2"]
_CONNECT_S, _IDLE_S = 20.0, 40.0


def make_wide(folder: Path) -> Path:
    """Create a random decoder, as wide as the default backbone but only four blocks deep: real message sizes, fast."""
    config = AutoConfig.from_pretrained(fetch("tiny"))
    config.update({"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(fetch("tiny")).save_pretrained(folder)
    return folder


def measure(backbone: Path, words: list[str], folder: Path) -> pd.DataFrame:
    """Run one federation; return one row per device and direction."""
    config = load_config(None, [f"backbone={backbone}", *_USERS, *_SMALL, *words])
    port = free_port()
    deploy(config, folder, "127.0.0.1", port)
    proxies = []
    for number in range(4):
        proxies.append(CountingProxy(port))
        script = folder / "nodes" / str(number) / "start.sh"
        script.write_text(script.read_text().replace(f"127.0.0.1:{port}", f"127.0.0.1:{proxies[-1].port}"))
    with Federation(folder, port) as federation:
        federation.start_nodes()
        time.sleep(_CONNECT_S)
        quiet, began = _count(proxies), time.monotonic()
        time.sleep(_IDLE_S)
        idle = (_count(proxies) - quiet) / (time.monotonic() - began)
        before, began = _count(proxies), time.monotonic()
        federation.submit()
        record = federation.wait(900)
        time.sleep(5)  # the last confirmations
        crossed, seconds = _count(proxies) - before, time.monotonic() - began
    if read_run(record).status != "completed":
        raise RuntimeError(read_run(record).error)
    ledger = pd.read_parquet(record / "ledger.parquet")
    tensors = len(load_file(record / "shared.safetensors"))
    equal_bytes, equal_tensors = _repeated(config)
    rows = []
    for user in range(4):
        for place, direction in enumerate(("up", "down")):
            of_user = ledger[(ledger.user == user) & (ledger.direction == direction)]
            messages = of_user[of_user.message_bytes > 0]
            first = int(((messages["round"] == 1) & (messages.phase == "train")).sum()) if direction == "down" else 0
            row = {"user": user, "direction": direction, "wire": crossed[user, place]}
            row |= {"idle": idle[user, place] * seconds, "messages": len(messages)}
            row |= {"message_bytes": int(messages.message_bytes.sum()), "repeated": first * equal_bytes}
            rows.append(row | {"tensors": int((messages.elements > 0).sum()) * tensors - first * equal_tensors})
    return pd.DataFrame(rows)


def _repeated(config: RunConfig) -> tuple[int, int]:
    """Return the bytes and number of tensors in a user's first download that equal an earlier one in it."""
    shape = read_shape(config.backbone)
    method = build_method(config, shape)
    seen: set[bytes] = set()
    repeated = [0, 0]
    for tensor in method.server_send(method.server_init(shape), 0).values():
        content = tensor.numpy().tobytes() + str(tuple(tensor.shape)).encode()
        if content in seen:
            repeated = [repeated[0] + tensor.numel() * tensor.element_size(), repeated[1] + 1]
        seen.add(content)
    return repeated[0], repeated[1]


def _count(proxies: list[CountingProxy]) -> Any:
    return np.array([[proxy.up, proxy.down] for proxy in proxies], dtype=float)


def fit(rows: pd.DataFrame) -> dict[str, Any]:
    """Fit each direction; return the coefficients and the largest residual relative to the bytes on the wire."""
    fits = {}
    for direction, part in rows.groupby("direction"):
        net = part.wire - part.idle
        design = np.stack([part.message_bytes - part.repeated, part.messages, part.tensors, np.ones(len(part))], axis=1)
        solution, *_ = np.linalg.lstsq(design, net, rcond=None)
        rest = (net - design @ solution) / part.wire
        names = ("factor", "bytes_per_message", "bytes_per_tensor", "bytes_per_run")
        fits[str(direction)] = {
            **dict(zip(names, map(float, solution), strict=True)),
            "largest_relative_residual": float(rest.abs().max()),
        }
    return fits


def main() -> None:
    """Run the measurements, print the fit and write the report."""
    scratch = Path(tempfile.mkdtemp())
    backbone = make_wide(scratch / "wide")
    parts = []
    for number, (name, words) in enumerate(RUNS.items()):
        parts.append(measure(backbone, words, scratch / str(number)).assign(run=name))
        print(parts[-1].to_string(), flush=True)
    rows = pd.concat(parts)
    shutil.rmtree(scratch)
    report = {"fit": fit(rows), "rows": rows.to_dict("records")}
    print(json.dumps(report["fit"], indent=1))
    Path("results").mkdir(exist_ok=True)
    Path("results/bench-wire.json").write_text(json.dumps(report, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
