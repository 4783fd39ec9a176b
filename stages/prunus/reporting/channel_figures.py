"""Figures of whole channels: what their removal costs in accuracy, and which layers they go from."""

import numpy as np
import pandas as pd
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from prunus.reporting.drawing import (
    MOST_CELLS_LABELLED,
    accuracy_curves,
    ink_on,
    legend_below,
    new_figure,
    percent_ticks,
    sentence_figure,
)
from prunus.reporting.files import removers
from prunus.reporting.names import look, method_name

NOTHING_REMOVED = "No method of this study removed whole channels."
STEPS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # of the axis of channels


def accuracy_against_channels(tables: dict[str, pd.DataFrame], methods: list[str]) -> Figure:
    """Mean test accuracy against the fraction of channels removed, of the methods that removed any."""
    drawn = removers(tables["summary"])
    if not drawn:
        return sentence_figure(NOTHING_REMOVED)
    figure = new_figure(4.8)
    axes, comparison = figure.subplots(), tables["comparison"]
    styles = {method: style for method, style in look(methods).items() if method in drawn}
    accuracy_curves(axes, comparison, styles, "channels_removed", 0.0, dots=True)
    most = comparison.loc[comparison["method"].isin(drawn), "channels_removed"].max()
    step = next((step for step in STEPS if most / step >= 5), STEPS[-1])
    axes.set_xlim(-0.02 * most, 1.02 * most)
    percent_ticks(step * np.arange(1 + int(1.02 * most / step)), axes.xaxis)
    axes.set_xlabel("channels removed (fraction of all filters, units and attention heads)")
    legend_below(figure, axes)
    return figure


def layer_ratios(tables: dict[str, pd.DataFrame], methods: list[str]) -> Figure:
    """Heat map of methods (rows) and channel groups (columns) after the last iteration: MIPP's relative ratios.

    A cell is the fraction of the group's channels removed over the mean of that over the groups, mean of the seeds: 1
    where a method prunes evenly.
    """
    channels, drawn = tables["channels"], set(removers(tables["summary"]))
    rows = [method for method in methods if method in drawn]
    if not rows:
        return sentence_figure(NOTHING_REMOVED)
    groups = list(dict.fromkeys(channels["group"]))
    last = channels[channels["iteration"] == channels["iteration"].max()]
    cells = last.pivot_table(index="method", columns="group", values="relative").loc[rows, groups]
    figure = new_figure(1.9 + 0.33 * len(rows))
    axes = figure.subplots()
    edges = np.arange(len(groups) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5
    norm = TwoSlopeNorm(1, 0, max(2.0, cells.max(axis=None)))
    mesh = axes.pcolormesh(*edges, cells, cmap="PuOr_r", norm=norm, edgecolors="white", linewidth=0.6)
    if cells.size <= MOST_CELLS_LABELLED:
        for (row, column), value in np.ndenumerate(cells.to_numpy()):
            color = ink_on(mesh.to_rgba(value))
            axes.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=9, color=color)
    axes.set_yticks(range(len(rows)), [method_name(method) for method in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    crowded = sum(map(len, groups)) > 70
    axes.set_xticks(range(len(groups)), groups, rotation=90 if crowded else 0, fontsize=9 if len(groups) <= 24 else 7)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(mesh, ax=axes, aspect=20, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label("channels removed,\nrelative to the mean")
    return figure
