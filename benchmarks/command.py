"""`fedperfit bench`: measures, prints ratios, writes `bench.json` and `bench.png`."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.local import PLAIN, Row, local_rows, matrix_peak
from benchmarks.processes import pyreft_step, splits
from configs.errors import InputError
from configs.load import load_config
from configs.paths import cache_dir
from simulations.run.simulate import simulate

matplotlib.use("Agg")


def bench(
    backbone: str,
    sites: list[int],
    repeats: int,
    users: int,
    seconds: float,
    pyreft: Path | None,
    out: Path,
    console: Console,
) -> dict[str, Any]:
    """Run all benchmarks one after the other, print their tables and write the results.

    Args:
        backbone: A value of the config's `backbone`.
        sites: Decoder blocks of the shifts.
        repeats: Repetitions of each step and evaluation.
        users: Users of the whole simulation; 0 skips it.
        seconds: Duration of the training for each way to split the cores.
        pyreft: The Python of an environment with pyreft, to measure its step too.
        out: Folder for `bench.json` and `bench.png`; created if missing.
        console: The console that tables are printed to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be created: {error.strerror}", field="out", value=out) from None
    # More than 50 lines, because each result is printed and written as soon as it is measured.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        report: dict[str, Any] = {"backbone": backbone, "sites": sites, "torch": torch.__version__}
        report["matrix_gflops"] = {precision: matrix_peak(precision) for precision in ("fp32", "bf16")}
        report["local"] = local_rows(backbone, sites, repeats)
        if pyreft:
            report["pyreft"] = pyreft_step(pyreft, backbone, sites, repeats)
    finally:
        torch.set_num_threads(threads)
    _write(report, out)
    _plot(report["local"]).savefig(out / "bench.png", dpi=150)
    console.print(_local_table(report["local"], report["matrix_gflops"]))
    if pyreft:
        ours = next(row["seconds"] for row in reversed(report["local"]) if row["work"] == "step, f7+l7, fp32")
        theirs = report["pyreft"]["seconds"]
        console.print(
            f"a step of pyreft (f7+l7, one rank-36 shift per site): {theirs:.3f} s, {theirs / ours:.2f} × fedperfit's"
        )
    report["splits"] = splits(backbone, sites[0], threads, seconds)
    _write(report, out)
    console.print(_splits_table(report["splits"]))
    if users:
        report["simulation"] = _simulations(backbone, sites, users)
        console.print(_simulation_table(report["simulation"]))
    _write(report, out)
    console.print(f"{out / 'bench.json'}, {out / 'bench.png'}")
    return report


def _write(report: dict[str, Any], out: Path) -> None:
    (out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")


def _simulations(backbone: str, sites: list[int], users: int) -> list[dict[str, Any]]:
    """Run the same simulation plainly, without a store, with an empty store, and with a filled store.

    The plain variant does one forward pass per label of each question, so most of its time is evaluation.
    """
    collective = users - users // 5
    words = [f"backbone={backbone}", f"sites={sites}", f"users.collective={collective}", f"users.target={users // 5}"]
    words += ["rounds=3", f"cohort={min(8, collective)}", "users.synthetic.history=16", "users.synthetic.queries=4"]
    words += ["local.lr=5e-3", "personal.lr=5e-3", "personal.epochs=2", "evaluate.every=1"]
    if backbone == "tiny":
        words.append("rank.shared=4")
    rows = []
    with tempfile.TemporaryDirectory() as scratch, _own_cache(Path(scratch)):
        for variant, method, room in (
            ("plain", "benchmarks.plain_method:PlainPerFit", 0),
            ("logits at labels, prompts shared", "perfit", 0),
            ("and hidden states kept as it goes", "perfit", 4096),
            ("all of them there already", "perfit", 4096),
        ):
            config = load_config(None, [*words, f"method={method}", f"activations_mb={room}"])
            record = simulate(config, "bench", Path(scratch), overwrite=True)
            rows.append({"variant": variant, "seconds": record.wall_s, "accuracy": record.metrics["accuracy"]})
    return rows


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """Use a temporary cache folder with the same backbones, so that no stored hidden states are used or evicted."""
    (folder / "cache").mkdir()
    (folder / "cache" / "backbones").symlink_to(cache_dir() / "backbones")
    before = os.environ.get("FEDPERFIT_CACHE")
    os.environ["FEDPERFIT_CACHE"] = str(folder / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ["FEDPERFIT_CACHE"]
        else:
            os.environ["FEDPERFIT_CACHE"] = before


def _local_table(rows: list[Row], peaks: dict[str, float]) -> Table:
    table = Table(
        title="one client's local work, one thread; plain: hooks on the whole model, all logits, nothing kept"
    )
    for title in ("work", "variant", "s", "times faster", "by FLOPs", "of peak", "in products", "value"):
        table.add_column(title, justify="left" if title in ("work", "variant") else "right")
    for row in rows:
        if row["variant"] == PLAIN:
            table.add_section()
        table.add_row(
            row["work"] if row["variant"] == PLAIN else "",
            row["variant"],
            f"{row['seconds']:.3f}",
            f"{row['times_faster']:.2f}",
            f"{row['times_fewer_flop']:.2f}",
            f"{row['gflop'] / row['seconds'] / peaks[row['precision']]:.0%}",
            f"{row['in_matrix_products']:.0%}",
            f"{row['value']:.5f}",
        )
    return table


def _splits_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="the cores split into clients × threads")
    for title in ("clients", "threads each", "steps a second, all", "memory, all (PSS)"):
        table.add_column(title, justify="right")
    for row in rows:
        cells = (row["processes"], row["threads"], f"{row['steps_per_s']:.2f}", f"{row['pss_mib']:.0f} MiB")
        table.add_row(*map(str, cells))
    return table


def _simulation_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="a whole simulation")
    for title in ("", "seconds", "times faster", "accuracy"):
        table.add_column(title, justify="right" if title else "left")
    for row in rows:
        ratio = rows[0]["seconds"] / row["seconds"]
        table.add_row(row["variant"], f"{row['seconds']:.0f}", f"{ratio:.2f}", f"{row['accuracy']:.3f}")
    return table


def _plot(rows: list[Row]) -> Figure:
    figure = Figure(figsize=(10, 5), layout="constrained")
    for axes, work in zip(figure.subplots(1, 2), ("step", "evaluation"), strict=True):
        chosen = [row for row in rows if row["work"].startswith(work) and row["variant"] != PLAIN]
        names = [f"{row['work'].partition(', ')[2]}\n{row['variant']}" for row in chosen]
        axes.barh(names, [row["times_faster"] for row in chosen], color="#0072B2")
        axes.axvline(1, color="black", linewidth=1)
        axes.set_title(f"{work}: times faster than plain")
        axes.tick_params(labelsize=6)
        axes.invert_yaxis()
    return figure
