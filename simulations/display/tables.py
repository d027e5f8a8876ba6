"""Terminal tables of run records, and helpers for all tables."""

import textwrap
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from fl_server.record.schema import AgreementPart, PrivacyPart, RunRecord
from strategies.metrics.statistics import LOWER_IS_BETTER, is_worse

WORST = "10th percentile"
"""Column header for p10 over users, or p90 for an error."""
BASELINES = {
    "copy": "copying the question",
    "first_sentence": "its first sentence",
    "usual": "the user's usual answer",
}
"""What trivial answers are called."""
BOUNDS = {
    "personalised": "oracle, user known",
    "learner": "ideal learner, same items",
    "collective": "oracle, user unknown",
}
"""What the best reachable scores of synthetic users are called."""


def new_table(*headers: str, title: str | None = None, caption: str | None = None, show_header: bool = True) -> Table:
    """Return an empty table in the style of all of them: lines only where they separate."""
    return Table(
        *headers,
        title=title,
        caption=caption,
        show_header=show_header,
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title_justify="left",
        caption_justify="left",
    )


def print_tables(screen: Console, tables: Sequence[Table]) -> None:
    """Print tables one below the other.

    Where one is too wide, headings and texts wrap, and numbers stay whole as long as the texts keep room for a word.
    """
    unbounded = screen.options.update(max_width=1000)
    for place, table in enumerate(tables):
        if screen.measure(table, options=unbounded).maximum > screen.width:
            _keep_numbers_whole(table, screen.width)
        screen.print(*([""] if place else []), table, sep="\n")


def _keep_numbers_whole(table: Table, width: int) -> None:
    numbers = [column for column in table.columns if column.justify == "right"]
    widest = [max(map(cell_len, [*str(column.header).split(), *map(str, column.cells)])) for column in numbers]
    texts = [" ".join(map(str, [column.header, *column.cells])) for column in table.columns if column not in numbers]
    words = [max(map(cell_len, text.split()), default=0) for text in texts]
    if sum(widest) + sum(words) + 2 * len(table.columns) > width:
        return  # something has to break
    for column, room in zip(numbers, widest, strict=True):
        column.header = "\n".join(textwrap.wrap(str(column.header), room))
        column.no_wrap = True


def quality_table(record: RunRecord) -> Table:
    """Quality of the bare backbone, and after each stage, on the same target users' questions."""
    asked = f" and {record.users.questions:,} questions" if record.users.questions else ""
    table = new_table(
        title=f"{record.name}: {record.task}, {record.users.target} target users{asked}, {record.backbone}"
    )
    metrics = [key for key in record.metrics if key != "outside"]
    table.add_column("")
    for key in metrics:
        table.add_column(with_arrow(key), justify="right")
    points = (
        *((BASELINES[name], values) for name, values in record.baselines.items()),
        ("bare backbone", record.metrics_base),
        ("collective, after stage 1", record.metrics_collective),
        *((f"  with {name}", values) for name, values in record.controls.items()),
        ("personalised, after stage 2", record.metrics),
    )
    for title, values in points:
        table.add_row(title, *(f"{values[key]:.3f}" for key in metrics))
    table.add_section()
    for title, spread in (("std over users", "std"), (WORST, "p10"), ("best 10th percentile", "p90")):
        table.add_row(f"  {title}", *(f"{record.per_user[key][_spread(key, spread)]:.3f}" for key in metrics))
    if record.oracle:
        table.add_section()
        oracle = record.oracle
        for bound, title in BOUNDS.items():
            score = getattr(oracle, bound)
            if score is not None:
                table.add_row(title, *(f"{score:.3f}" if name == oracle.metric else "" for name in metrics))
    for name, part in record.agreement.items():
        title = f"user and crowd {name}: {part.questions} questions"
        table.add_row(title, *(_before_and_after(part, key) for key in metrics))
    table.caption = "; ".join(_captions(record)) or None
    return table


def _captions(record: RunRecord) -> list[str]:
    """Say what the table of quality does not show: what its signs mean, and which stages did harm."""
    captions = ["→: before and after stage 2"] if record.agreement else []
    captions += [privacy_words(record.privacy)] if record.privacy else []
    main = record.main_metric
    if record.metrics.get("outside"):
        captions.append(f"{record.metrics['outside']:.1%} of the personalised answers were not valid for the task")
    if record.metrics and is_worse(record.metrics_collective[main], record.metrics_base[main], main):
        captions.append("stage 1 made answers worse than the bare backbone's")
    before = record.metrics_collective or record.metrics_base
    if record.metrics and is_worse(record.metrics[main], before[main], main):
        captions.append("stage 2 made answers worse than they were before it")
    captions += [
        f"the personalised answers are worse than {BASELINES[name]}, which needs no model"
        for name, values in record.baselines.items()
        if record.metrics and is_worse(record.metrics[main], values[main], main)
    ]
    if record.figures:
        means = ", ".join(f"{name} {value:.3g}" for name, value in record.figures.items())
        captions.append(f"the method's own figures, means over users: {means}")
    return captions


def sentence(record: RunRecord) -> str:
    """Say a completed run's result in one line."""
    key = record.main_metric
    points = (
        ("bare", record.metrics_base),
        ("collective", record.metrics_collective),
        ("personalised", record.metrics),
    )
    path = " → ".join(f"{values[key]:.3f} {name}" for name, values in points)
    lower = " (lower is better)" if key in LOWER_IS_BETTER else ""
    return f"{record.method}: {key}{lower} {path}, for {human_bytes(record.bytes.total)} with evaluation"


def privacy_words(spent: PrivacyPart) -> str:
    """Say what stage 1's differential privacy promises its users."""
    whose = "the server's" if spent.kind == "central" else "the clients'"
    if spent.epsilon is None:
        return f"updates of stage 1 were clipped to {spent.clip:g}, without noise: no finite ε"
    promise = f"(ε = {spent.epsilon:.3g}, δ = {spent.delta:g})"
    return f"stage 1 is {promise}-differentially private for its users, by {whose} noise in {spent.rounds} rounds"


def _before_and_after(part: AgreementPart, metric: str) -> str:
    values = [part.metrics[point].get(metric) for point in ("collective", "personalised")]
    return " → ".join("–" if value is None else f"{value:.3f}" for value in values)


def _spread(metric: str, key: str) -> str:
    """The key in `per_user`: if lower is better, p10 and p90 change places, since the worst users are above p90."""
    return {"p10": "p90", "p90": "p10"}.get(key, key) if metric in LOWER_IS_BETTER else key


def with_arrow(metric: str) -> str:
    """Return a metric's name, with an arrow if lower is better."""
    return f"{metric} ↓" if metric in LOWER_IS_BETTER else metric


def bytes_table(record: RunRecord) -> Table:
    """Bytes between server and clients, from the ledger."""
    table = new_table(title="bytes on the wire (serialised messages)")
    for title in ("", "up", "down"):
        table.add_column(title, justify="right" if title else "left")
    counted = record.bytes
    table.add_row(
        "per client and round of stage 1",
        human_bytes(counted.per_client_round_up),
        human_bytes(counted.per_client_round_down),
    )
    table.add_row("total", human_bytes(counted.up), human_bytes(counted.down))
    table.add_row("  of which tensors", human_bytes(counted.payload_up), human_bytes(counted.payload_down))
    if counted.ratio_up != 1 or counted.ratio_down != 1:
        table.add_row("  codec", counted.codec_up, counted.codec_down)
        table.add_row("  compressed by", f"{counted.ratio_up:.1f} ×", f"{counted.ratio_down:.1f} ×")
    if counted.payload_training is not None:
        # FlowerTune's leaderboard has units of 2²⁰ bytes, and a budget.
        spent = f"{counted.payload_training / 2**20:,.2f} of 200,000 MB"
        table.add_row("tensors that train, as FlowerTune counts", spent, "")
    table.caption = f"parameters: {record.params.shared:,} shared, {record.params.private:,} private per user"
    if record.simulated_s is not None:
        table.caption += f"; stage 1 took {record.simulated_s:,.0f} simulated seconds"
    if record.left_out:
        table.caption += f"; {record.left_out} updates failed or were rejected (see clients.parquet)"
    if record.over_memory:
        table.caption += f"; {record.over_memory} tasks needed more memory than their device has"
    return table


def rows_of(table: Table) -> list[list[str]]:
    """Return a table's cells by row, for output other than the terminal."""
    return [list(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)]


def human_bytes(number: float) -> str:
    """Format a number of bytes, such as `1.23 MB` (powers of 1,000)."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.2f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"
