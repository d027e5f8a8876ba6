"""The figures of a report as files, for papers."""

import re
from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go
import plotly.io

from configs.errors import InputError

FORMATS = ("png", "svg", "pdf")
_WHITE = {"paper_bgcolor": "white", "plot_bgcolor": "white"}


def write_figures(figures: Mapping[str, go.Figure], folder: Path, private: bool = False) -> None:
    """Write each figure as `<name>.png`, `.svg` and `.pdf`.

    Raises:
        InputError: Kaleido or Chromium is missing, or the folder cannot be written.
    """
    try:
        import kaleido  # noqa: F401
    except ImportError:
        raise InputError("needs Kaleido; pip install 'fedperfit[figures]'", field="figures") from None
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700 if private else 0o777)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", field="figures", value=folder) from None
    # The legend is below the axes, with about three names per line.
    names = [sum(trace.showlegend is not False for trace in figure.data) for figure in figures.values()]
    rooms = [80 + 22 * (count // 3) for count in names]
    drawn = [
        go.Figure(figure).update_layout(_WHITE).update_layout(margin_b=room)
        for figure, room in zip(figures.values(), rooms, strict=True)
    ]
    files: list[str] = []
    for name in figures:
        file = re.sub(r"[^\w.-]+", "-", name)
        files.append(f"{file}-{len(files)}" if file in files else file)
    paths = [folder / f"{name}.{form}" for name in files for form in FORMATS]
    try:
        # One call, so that the browser starts only once.
        plotly.io.write_images(
            [figure for figure in drawn for _ in FORMATS],
            paths,
            width=900,
            height=[500 + room for room in rooms for _ in FORMATS],
        )
        for path in paths if private else ():
            path.chmod(0o600)
    except RuntimeError:
        raise InputError("needs Chrome or Chromium, which did not start", field="figures", value=folder) from None
