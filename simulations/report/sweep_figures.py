"""The interactive figure of a sweep."""

import plotly.graph_objects as go

from simulations.display.style import styles
from simulations.experiments.sweep.schema import Sweep
from simulations.experiments.sweep.tables import cells
from simulations.report.figures import axis, finished, safe


def by_one_key(sweep: Sweep) -> go.Figure:
    """Draw quality after and before stage 2 against the values of the only key."""
    figure = go.Figure()
    (key,) = sweep.keys
    rows = cells(sweep)
    looks = styles(rows.method)
    for method, of_method in rows.groupby("method", sort=False):
        name, look = safe(str(method)), looks[str(method)]
        style = {"mode": "lines+markers", "marker": {"symbol": look.symbol, "size": 9}}
        line = {"color": look.colour}
        bars = {"type": "data", "array": of_method.deviation}
        figure.add_scatter(
            x=of_method[key], y=of_method.value, error_y=bars, name=f"{name}, personalised", line=line, **style
        )
        dotted = {**line, "dash": "dot"}
        figure.add_scatter(x=of_method[key], y=of_method.before, name=f"{name}, collective", line=dotted, **style)
    figure.update_xaxes(title=key, type="category")
    figure.update_yaxes(title=axis(sweep.metric))
    return finished(figure)


def by_two_keys(sweep: Sweep, method: str) -> go.Figure:
    """Draw one method's quality after stage 2 as a heat map."""
    rows = cells(sweep)
    of_method = rows[rows.method == method]
    one, other = sweep.keys
    heat = go.Heatmap(
        x=of_method[other],
        y=of_method[one],
        z=of_method.value,
        text=of_method.value.map("{:.3f}".format),
        texttemplate="%{text}",
        colorscale="Viridis",
        reversescale=sweep.lower_is_better,
        hovertemplate=f"{one} %{{y}}, {other} %{{x}}: %{{text}}<extra></extra>",
    )
    figure = go.Figure(heat)
    figure.update_xaxes(title=other, type="category")
    figure.update_yaxes(title=one, type="category")
    return finished(figure)
