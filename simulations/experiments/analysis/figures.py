"""Figures of δ-vectors: two directions, five coordinates, the control, all sites."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from simulations.display.plots import BASE, save_figure
from simulations.display.style import PALETTE
from simulations.experiments.analysis.numbers import COORDINATES, Decomposition
from simulations.experiments.analysis.schema import Analysis, Together

_OWN, _OTHER = PALETTE[0], BASE


def draw(vectors: np.ndarray, control: np.ndarray, analysis: Analysis, folder: Path) -> None:
    """Draw the middle site's users, and all sites, as PNG, SVG and PDF.

    Args:
        vectors: δ, [users, sites, d].
        control: With made-up words, likewise.
        analysis: Their analysis.
        folder: Where to.
    """
    place = len(analysis.sites) // 2
    parts = Decomposition.of(vectors[:, place])
    coordinates, other = parts.coordinates(), parts.coordinates(control[:, place])
    where = f"{analysis.task}, {analysis.backbone}, block {analysis.sites[place].site}, {analysis.users} users"
    save_figure(_users(coordinates, where), folder, "users")
    save_figure(_control(coordinates, other, where), folder, "control")
    if len(analysis.sites) > 1:
        save_figure(_sites(analysis), folder, "sites")


def draw_together(vectors: list[np.ndarray], compared: Together, folder: Path) -> None:
    """Draw several tasks' users along the first two directions of all of them, as PNG, SVG and PDF.

    Args:
        vectors: δ at one site, [users, d] for each task.
        compared: Their comparison.
        folder: Where to.
    """
    parts = Decomposition.of(np.concatenate(vectors))
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, users) in enumerate(zip(compared.names, vectors, strict=True)):
        coordinates = parts.coordinates(users, 2)
        shade = PALETTE[number % len(PALETTE)]
        axes.scatter(coordinates[:, 0], coordinates[:, 1], s=12, alpha=0.6, color=shade, label=name)
    axes.axhline(0, color=BASE, linewidth=0.5)
    axes.axvline(0, color=BASE, linewidth=0.5)
    axes.set_xlabel("first direction")
    axes.set_ylabel("second direction")
    axes.set_title(f"block {compared.site}", fontsize=9)
    axes.legend(fontsize=8)
    save_figure(figure, folder, "together")


def _users(coordinates: np.ndarray, where: str) -> Figure:
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.scatter(coordinates[:, 0], coordinates[:, 1], s=12, alpha=0.6, color=_OWN)
    left.scatter(*coordinates[:, :2].mean(axis=0), marker="*", s=200, color=PALETTE[1], edgecolor="black", label="mean")
    left.axhline(0, color=BASE, linewidth=0.5)
    left.axvline(0, color=BASE, linewidth=0.5)
    left.set_xlabel("first direction")
    left.set_ylabel("second direction")
    left.set_title(where, fontsize=9)
    left.legend()
    right.violinplot(coordinates, positions=range(coordinates.shape[1]), showmeans=True)
    right.axhline(0, color=BASE, linewidth=0.5)
    right.set_xlabel("direction")
    right.set_ylabel("coordinate")
    return figure


def _control(coordinates: np.ndarray, other: np.ndarray, where: str) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(coordinates.shape[1])
    bars = ((-0.2, coordinates, _OWN, "own history"), (0.2, other, _OTHER, "made-up words"))
    for shift, values, shade, title in bars:
        axes.bar(places + shift, np.abs(values).mean(axis=0), width=0.4, color=shade, label=title)
    axes.set_xlabel(f"direction, the first {COORDINATES}")
    axes.set_ylabel("mean |coordinate|")
    axes.set_title(where, fontsize=9)
    axes.legend()
    return figure


def _sites(analysis: Analysis) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    sites = [each.site for each in analysis.sites]
    for number, share in enumerate(analysis.sites[0].ranks):
        left.plot(sites, [each.ranks[share] for each in analysis.sites], marker="o", color=PALETTE[number], label=share)
    left.set_xlabel("block")
    left.set_ylabel("directions for a share of the variance")
    left.legend()
    right.plot(sites, [each.mean_share for each in analysis.sites], marker="o", color=PALETTE[0])
    right.set_ylim(0, 1)
    right.set_xlabel("block")
    right.set_ylabel("‖mean δ‖² / mean ‖δ‖²")
    return figure
