"""Parameters a config trains, sends and keeps, from its backbone's config only; and the paper's tables."""

from dataclasses import dataclass
from typing import Any

from rich.table import Table
from transformers import LlamaConfig

from configs.load import CONFIGS, load_config
from configs.schema import RunConfig
from fl_clients.backbone.load import on_meta, shape_of
from simulations.display.tables import human_bytes, new_table
from strategies.loading import load_method
from strategies.method import BackboneShape, Method

LLAMA_2_7B = LlamaConfig(
    vocab_size=32_000,
    hidden_size=4096,
    intermediate_size=11_008,
    num_hidden_layers=32,
    num_attention_heads=32,
    tie_word_embeddings=False,
)
"""The paper's backbone; 6.738 G parameters."""

_FP32 = 4
_ABSTRACT = 92.3


@dataclass(frozen=True)
class Parity:
    """One task's row of the paper's Tables 2 and 3: parameters of PerFit and OPPU in stage 1 and stage 2."""

    task: str
    ours: tuple[int, int]
    """PerFit's trained parameters, by stage."""
    theirs: tuple[int, int]
    """OPPU's, by stage."""
    backbone: int

    @property
    def percent(self) -> list[float]:
        """PerFit's parameters as a percentage of the backbone's, by stage."""
        return [100 * count / self.backbone for count in self.ours]

    @property
    def reduction(self) -> list[float]:
        """The reduction against OPPU in percent, by stage."""
        return [100 * (1 - count / other) for count, other in zip(self.ours, self.theirs, strict=True)]


def parameter_rows(method: Method, shape: BackboneShape) -> list[dict[str, Any]]:
    """Count what a method trains, sends and keeps on a backbone: `what, parameters, percent, bytes` (fp32)."""
    counts = {"shared, sent back per client and round": method.shared_parameters(shape)}
    parts: dict[str, int] = {}
    for name, tensor in method.server_init(shape).items():
        part = f"  {name.partition('.')[0].replace('_', ' ')}"
        parts[part] = parts.get(part, 0) + tensor.numel()
    if len(parts) > 1:
        counts |= parts
    counts["private, kept by each user"] = method.private_parameters(shape)
    return [
        {"what": what, "parameters": count, "percent": 100 * count / shape.parameters, "bytes": _FP32 * count}
        for what, count in counts.items()
    ]


def parameter_table(rows: list[dict[str, Any]], title: str) -> Table:
    """Tabulate `parameter_rows`."""
    table = new_table(title=title)
    for column in ("", "parameters", "of the backbone", "fp32"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(row["what"], f"{row['parameters']:,}", f"{row['percent']:.4f} %", human_bytes(row["bytes"]))
    return table


def paper_parity() -> list[Parity]:
    """Compute the paper's parameter parity on Llama-2-7B from the shipped presets.

    OPPU's stage 1 is LoRA of rank 8 on q, k, v and its stage 2 on q, v (PerFit, appendix D.5.3).
    """
    shape = shape_of(on_meta(LLAMA_2_7B))
    rows = []
    for preset in sorted((CONFIGS / "tasks").glob("*.toml")):
        # The paper's stage 1 counts the collective shift only.
        overrides = ["preset=paper", f"task={preset.stem}", "joint_private_init=false"]
        configs = [load_config(None, [*overrides, f"method={name}"]) for name in ("perfit", "oppu")]
        ours, theirs = (_parameters(config, shape) for config in configs)
        rows.append(Parity(preset.stem, ours, theirs, shape.parameters))
    return rows


def _parameters(config: RunConfig, shape: BackboneShape) -> tuple[int, int]:
    method = load_method(config.method, config.method_values(), config.settings)
    return method.shared_parameters(shape), method.private_parameters(shape)


def parity_table(rows: list[Parity]) -> Table:
    """Tabulate `paper_parity` as the paper prints it, with both averages of the reductions."""
    table = new_table(title="PerFit on Llama-2-7B against OPPU (the paper's Tables 2 and 3)")
    for title in ("task", "stage 1", "stage 2", "reduction against OPPU, stage 1", "stage 2"):
        table.add_column(title, justify="left" if title == "task" else "right")
    for row in rows:
        cells = [f"{value:.4f} %" for value in row.percent] + [f"{value:.2f} %" for value in row.reduction]
        table.add_row(row.task, *cells)
    mean, pooled = average_reductions(rows)
    table.caption = (
        f"mean of the {2 * len(rows)} reductions: {mean:.2f} %; reduction of all parameters pooled: {pooled:.2f} %; "
        f"in the paper's abstract: {_ABSTRACT} %"
    )
    return table


def parity_content(rows: list[Parity]) -> dict[str, Any]:
    """Return `paper_parity` as data for JSON."""
    mean, pooled = average_reductions(rows)
    tasks = [
        {
            "task": row.task,
            "parameters": row.ours,
            "oppu": row.theirs,
            "percent": row.percent,
            "reduction": row.reduction,
        }
        for row in rows
    ]
    return {"tasks": tasks, "mean_reduction": mean, "pooled_reduction": pooled, "abstract": _ABSTRACT}


def average_reductions(rows: list[Parity]) -> tuple[float, float]:
    """Return the mean of all reductions, and the reduction of all parameters pooled, in percent."""
    mean = sum(sum(row.reduction) for row in rows) / (2 * len(rows))
    return mean, 100 * (1 - sum(sum(row.ours) for row in rows) / sum(sum(row.theirs) for row in rows))
