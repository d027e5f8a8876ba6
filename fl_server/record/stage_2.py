"""What a gathered record says of stage 2 besides its scores."""

from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pyarrow.compute as pc
import pyarrow.parquet as pq

METHOD = "method."
"""Begins the names of a method's own figures in `clients.parquet`."""


def method_figures(folder: Path) -> dict[str, float]:
    """Return the means over target users of what the method measured in stage 2 (`FitResult.figures`).

    Those with a dot in their names, such as `ccs_loss.7`, are of single layers and left out.
    """
    clients = pq.read_table(folder / "clients.parquet", columns=["phase", "metrics"])
    values = defaultdict(list)
    for metrics in clients.filter(pc.equal(clients["phase"], "personalize"))["metrics"].to_pylist():
        for name, value in metrics or ():
            figure = name.removeprefix(METHOD)
            if name.startswith(METHOD) and "." not in figure:
                values[figure].append(value)
    return {figure: fmean(of_users) for figure, of_users in values.items()}
