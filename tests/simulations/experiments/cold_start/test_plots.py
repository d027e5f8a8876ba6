"""The figures of a cold start show the values of its rows."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from simulations.experiments.cold_start import plots
from tests.simulations.experiments.cold_start.test_findings import later, rows


def test_figures_show_the_values_of_the_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(plots, "save_figure", lambda figure, _, name: drawn.update({name: figure}))
    frame = rows(
        {"method": "lora-c", "collective": 100, "value": 0.4, "bytes_total": 1e6},
        {"value": 0.5, "bytes_total": 2e6},
        {"value": 0.7, "bytes_total": 4e6, "seed": 1},
        {"collective": 100, "value": 0.8, "bytes_total": 3e6},
        later(collective=100, value=0.3, history=5),
        later(collective=100, value=0.2, task="b", metric="mae"),
        {"collective": 100, "value": 0.1, "task": "b", "trained_on": "b", "metric": "mae"},
    )
    plots.draw(frame, tmp_path)
    assert list(drawn) == ["cold_start-a", "cold_start-b", "transfer"]
    by_number, by_bytes, by_items = (
        [line.get_xydata().tolist() for line in axes.lines] for axes in drawn["cold_start-a"].axes
    )
    assert by_number == [[[100, 0.4]], [[10, pytest.approx(0.6)], [100, 0.8]]]
    assert by_bytes == [[[1, 0.4]], [[3, pytest.approx(0.6)], [3, 0.8]]]
    # Only PerFit has a run with 5 items; the other method's points keep their positions.
    assert by_items == [[[0, 0.4], [2, 0.4]], [[0, 0.4], [1, 0.3], [2, 0.8]]]
    assert [text.get_text() for text in drawn["cold_start-a"].axes[2].get_xticklabels()] == ["0", "5", "all"]
    numbered, spent, items = drawn["cold_start-a"].axes
    assert [axes.get_xscale() for axes in (numbered, spent, items)] == ["log", "log", "linear"]
    assert [text.get_text() for text in numbered.get_xticklabels()] == ["10", "100"]
    assert [text.get_text() for text in spent.texts] == ["100", "10", "100"]
    # The band is one standard deviation, 0.02**0.5, around the mean over seeds; one seed has no band.
    _, band = numbered.collections
    heights = {round(x): [y for at, y in band.get_paths()[0].vertices if at == x] for x in (10, 100)}
    assert (min(heights[10]), max(heights[10])) == pytest.approx((0.6 - 0.02**0.5, 0.6 + 0.02**0.5))
    assert set(heights[100]) == {0.8}
    (heat,) = drawn["transfer"].axes[0].images
    # On b, an error, the shift trained on b has the lowest value, half of the other's.
    assert [row[1] for row in heat.get_array().tolist()] == [0.5, 1]
    assert "lower is better" in drawn["cold_start-b"].axes[0].get_ylabel()
