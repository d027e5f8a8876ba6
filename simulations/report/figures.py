"""The interactive figures of a report, as Plotly figures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from simulations.display.style import PALETTE, colour
from simulations.experiments.comparable import Run
from simulations.experiments.comparison.curves import curve
from simulations.report.gather import ReportRun
from simulations.report.series import Series, series
from strategies.metrics.statistics import LOWER_IS_BETTER

_DIRECTIONS, _SCOPES = ("total", "up", "down"), ("", "_per_client")
LOGARITHMIC = {"type": "log", "tickformat": ",~r", "dtick": "D2"}
"""A logarithmic axis; without a format, ticks between powers of ten are labelled with their first digit only."""
_MARGIN = {"l": 60, "r": 20, "t": 20, "b": 50}


def cost_curves(runs: Sequence[ReportRun]) -> tuple[go.Figure, dict[str, list[list[float]]]] | None:
    """Draw quality after personalisation against bytes, with a band of one standard deviation over seeds.

    Returns:
        The figure, with all clients' bytes up and down; and the traces' x for every choice, by
        `<total|up|down>-<all|client>`. None if no run sends tensors.
    """
    figure = go.Figure()
    choices: dict[str, list[list[float]]] = {f"{way}-{scope}": [] for way in _DIRECTIONS for scope in ("all", "client")}
    for item in series(runs):
        frames = [curve(Run(item.method, run.folder, run.config, run.record)) for run in item.runs]
        grouped = pd.concat(frames).groupby("round")
        mean, deviation = grouped.value.mean(), grouped.value.std().fillna(0)
        if not any(run.record.params.shared for run in item.runs):
            # It sends nothing and a logarithmic axis has no zero, so draw a horizontal line.
            line = {"color": colour(item.method), "dash": "dash", "width": 1}
            text = f"{safe(item.label)} (sends no tensors)"
            figure.add_hline(y=float(mean.iloc[-1]), line=line, annotation={"text": text, "xanchor": "right"})
            continue
        point = "round %{customdata[0]}<br>%{x:.4g} MB<br>%{y:.3f} ± %{customdata[1]:.3f}<extra></extra>"
        figure.add_scatter(
            y=mean,
            customdata=np.stack([mean.index, deviation], axis=1),
            name=safe(item.label),
            legendgroup=item.label,
            mode="lines+markers",
            # A band needs two points.
            error_y={"array": deviation.tolist(), "visible": len(mean) == 1 and bool(deviation.gt(0).any())},
            hovertemplate=f"<b>{safe(item.label)}</b><br>{point}",
            **item.style,
        )
        figure.add_scatter(y=[*(mean + deviation), *(mean - deviation)[::-1]], **_band(item, deviation))
        for way in _DIRECTIONS:
            for scope, suffix in zip(("all", "client"), _SCOPES, strict=True):
                x = (grouped[f"bytes_{way}{suffix}"].mean() / 1e6).tolist()
                choices[f"{way}-{scope}"] += [x, [*x, *x[::-1]]]
    if not figure.data:
        return None
    for trace, x in zip(figure.data, choices["total-all"], strict=True):
        trace.x = x
    figure.update_xaxes(title="bytes of all clients, MB", **LOGARITHMIC)
    figure.update_yaxes(title=axis(runs[0].metric))
    return finished(figure), choices


def _band(item: Series, deviation: "pd.Series[float]") -> dict[str, Any]:
    """Return the look of a band, which is not seen where nothing deviates."""
    return {
        "legendgroup": item.label,
        "showlegend": False,
        "fill": "toself",
        "mode": "none",
        "fillcolor": colour(item.method),
        "opacity": 0.15 if deviation.gt(0).any() else 0,
        "hoverinfo": "skip",
    }


def quality_by_round(runs: Sequence[ReportRun]) -> go.Figure | None:
    """Draw quality during stage 1 and at the end; None if nothing was evaluated during stage 1."""
    figure = go.Figure()
    for item in series(runs):
        for point, last in (("collective", "metrics_collective"), ("personalised", "metrics")):
            frames = []
            for run in item.runs:
                midway = run.rounds.reindex(columns=["round", f"{point}.{run.metric}"]).dropna()
                midway.columns = pd.Index(["round", "value"])
                if len(midway):
                    stage_2 = run.clients[run.clients.phase == "personalize"]
                    end = {"round": [stage_2["round"].max()], "value": [getattr(run.record, last)[run.metric]]}
                    frames += [midway, pd.DataFrame(end)]
            if frames:
                mean = pd.concat(frames).groupby("round").value.mean()
                style = item.style | ({"line": {**item.style["line"], "dash": "dot"}} if point == "collective" else {})
                name = f"{safe(item.label)}, {point}"
                figure.add_scatter(x=list(mean.index), y=mean, name=name, mode="lines+markers", **style)
    if not figure.data:
        return None
    figure.update_xaxes(title="round")
    figure.update_yaxes(title=f"{axis(runs[0].metric)}, mean over seeds")
    return finished(figure)


def loss_by_round(runs: Sequence[ReportRun]) -> go.Figure | None:
    """Draw the cohorts' mean loss after training, by round; None if there is no stage 1."""
    figure = go.Figure()
    for item in series(runs):
        mean = pd.concat([run.rounds for run in item.runs]).groupby("round").loss.mean().dropna()
        if len(mean):
            figure.add_scatter(x=list(mean.index), y=mean, name=safe(item.label), mode="lines+markers", **item.style)
    if not figure.data:
        return None
    figure.update_xaxes(title="round")
    figure.update_yaxes(title="loss, nats per answer token")
    return finished(figure)


def per_user(runs: Sequence[ReportRun]) -> go.Figure:
    """Draw each target user's quality before and after personalisation; on the diagonal it is unchanged."""
    figure = go.Figure()
    values = [0.0]
    for item in series(runs):
        frame = pd.concat([users_of(run) for run in item.runs])
        values += [*frame.before, *frame.after]
        frame["name"] = frame.user_id.astype(str).map(safe)
        # Few questions give few distinct values: users at one point share a marker, sized by their number.
        positions = frame.groupby(["before", "after"], as_index=False).name.agg(["size", "<br>".join])
        point = "before %{x:.3f}<br>after %{y:.3f}<br>%{text}<extra>"
        figure.add_scatter(
            x=positions.before,
            y=positions.after,
            text=positions["join"],
            name=safe(item.label),
            mode="markers",
            marker={**item.style["marker"], "size": 7 * np.sqrt(positions["size"]), "opacity": 0.6},
            hovertemplate=f"{point}{safe(item.label)}</extra>",
        )
    ends = [min(values), max(values)]
    grey = {"dash": "dash", "color": "#999999"}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=grey, showlegend=False, hoverinfo="skip")
    figure.update_xaxes(title=f"{axis(runs[0].metric)}, after stage 1")
    figure.update_yaxes(title="after stage 2")
    return finished(figure)


def distribution(runs: Sequence[ReportRun]) -> go.Figure:
    """Draw the distribution over target users of quality after personalisation."""
    figure = go.Figure()
    for item in series(runs):
        frame = pd.concat([users_of(run) for run in item.runs])
        figure.add_box(
            y=frame.after,
            name=safe(item.label),
            marker={"color": colour(item.method)},
            boxpoints="all",
            jitter=0.4,
            pointpos=0,
            text=frame.user_id.astype(str).map(safe),
            showlegend=False,
        )
    figure.update_yaxes(title=axis(runs[0].metric))
    return finished(figure)


def bytes_by_group(runs: Sequence[ReportRun]) -> go.Figure:
    """Draw a run's bytes: each tensor group up and down, and the rest of the messages."""
    figure = go.Figure()
    groups = sorted({group for run in runs for group in run.ledger.group if group})
    for direction, pattern in (("up", ""), ("down", "/")):
        for number, group in enumerate([*groups, "message"]):
            sums = []
            for run in runs:
                messages = run.ledger[run.ledger.direction == direction]
                whole = messages.message_bytes.sum() - messages.payload_bytes.sum()
                sums.append(
                    float(whole if group == "message" else messages[messages.group == group].payload_bytes.sum()) / 1e6
                )
            figure.add_bar(
                x=[safe(run.label) for run in runs],
                y=sums,
                name=f"{safe(group)}, {direction}",
                marker={"color": PALETTE[number % len(PALETTE)], "pattern": {"shape": pattern}},
            )
    figure.update_layout(barmode="stack")
    figure.update_yaxes(title="bytes of the whole run, MB")
    return finished(figure)


def bytes_by_phase(runs: Sequence[ReportRun]) -> go.Figure:
    """Draw a run's bytes by what messages are for, both ways: training, evaluation, and so on."""
    figure = go.Figure()
    for number, phase in enumerate(dict.fromkeys(phase for run in runs for phase in run.ledger.phase)):
        sums = [float(run.ledger[run.ledger.phase == phase].message_bytes.sum()) / 1e6 for run in runs]
        figure.add_bar(x=[safe(run.label) for run in runs], y=sums, name=phase, marker={"color": PALETTE[number]})
    figure.update_layout(barmode="stack")
    figure.update_yaxes(title="bytes of the whole run, MB")
    return finished(figure)


def users_of(run: ReportRun) -> pd.DataFrame:
    """Return `user, user_id, before, after` of a run's target users that have questions."""
    keys = {f"collective.{run.metric}": "before", f"personalised.{run.metric}": "after"}
    personal = run.clients[run.clients.phase == "personalize"]
    frame = personal[["user", *keys]].rename(columns=keys).dropna()
    return frame.merge(run.users[["partition", "user_id"]], left_on="user", right_on="partition").drop(
        columns="partition"
    )


def axis(metric: str) -> str:
    """Return an axis title."""
    return f"{metric}{', lower is better' if metric in LOWER_IS_BETTER else ''}"


def safe(text: str) -> str:
    """Escape a name, since Plotly interprets some HTML in text."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def finished(figure: go.Figure) -> go.Figure:
    """Apply the layout of all figures; the page sets the background and the text colour."""
    layout: dict[str, Any] = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": _MARGIN,
        "template": "none",
    }
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    # At the bottom, with any number of lines; whatever draws the figure makes room for it.
    legend = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0}
    return figure.update_layout(**layout, legend=legend, hoverlabel={"namelength": -1})
