"""Figures of whole channels: what their removal costs in accuracy, and which layers they go from."""

import numpy as np
import pandas as pd
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from prunus.reporting.drawing import (
    MOST_CELLS_LABELLED,
    accuracy_curves,
    density_axis,
    ink_on,
    legend_below,
    new_figure,
    sentence_figure,
)
from prunus.reporting.files import removers
from prunus.reporting.names import look, method_name

NOTHING_REMOVED = "No method of this study removed whole channels."
FEWEST = 1e-3  # of the channels, left of a network that has none: a log axis has no zero


def accuracy_against_channels(tables: dict[str, pd.DataFrame], methods: list[str]) -> Figure:
    """Mean test accuracy against the fraction of channels removed, of the methods that removed any."""
    drawn = removers(tables["summary"])
    if not drawn:
        return sentence_figure(NOTHING_REMOVED)
    figure = new_figure(4.8)
    axes, comparison = figure.subplots(), tables["comparison"]
    styles = {method: style for method, style in look(methods).items() if method in drawn}
    left = comparison.assign(left=1 - comparison["channels_removed"].clip(upper=1 - FEWEST))
    accuracy_curves(axes, left, styles, "left", 1.0, dots=True)
    # The axis of what is left, as for densities, with the names of what is gone.
    density_axis(axes, left.loc[left["method"].isin(drawn), "left"].min())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 - 100 * value:.4g}\u202f%"))
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
