"""The report's figures, drawn from the tables alone; each function returns a matplotlib ``Figure``.

Densities run from dense (left) to sparse (right) on a log axis. A method has one colour in all figures.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from prunus.reporting.channel_figures import accuracy_against_channels, layer_ratios
from prunus.reporting.drawing import (
    BORDER,
    DASHES,
    GRID,
    INK,
    MOST_CELLS_LABELLED,
    accuracy_curves,
    density_axis,
    density_ticks,
    ink_on,
    legend_below,
    methods_axis,
    new_figure,
    panel_grid,
    percent_ticks,
    sentence_figure,
    tint,
)
from prunus.reporting.names import duration, look, method_name, number

# Hatching and strength of colour, since the colour itself says which method.
PARTS = {"prune": ("xxx", 0.8), "train": ("", 1.0), "flow": ("////", 0.6), "evaluation": ("", 0.25)}
PART_NAMES = {"prune": "choosing what to prune", "train": "training", "flow": "measuring flow"}
PART_NAMES |= {"evaluation": "validation accuracy"}


def _accuracy_against_density(axes, comparison: pd.DataFrame, methods: list[str], dots: bool) -> None:
    accuracy_curves(axes, comparison, look(methods), "density", 1.0, dots)
    density_axis(axes, comparison["density"].min())


def accuracy_against_density(tables: dict[str, pd.DataFrame], methods: list[str]) -> Figure:
    figure = new_figure(4.8)
    axes = figure.subplots()
    _accuracy_against_density(axes, tables["comparison"], methods, dots=True)
    legend_below(figure, axes)
    return figure


def headline(tables: dict[str, pd.DataFrame], methods: list[str]) -> Figure:
    """The picture for a talk: accuracy against density, and what each method cost to get there."""
    figure = new_figure(max(4.2, 2.2 + 0.36 * len(methods)))
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _accuracy_against_density(left, tables["comparison"], methods, dots=False)
    left.set_title("Accuracy")
    rows, styles = tables["summary"].set_index("method").loc[methods], look(methods)
    known = rows["seconds_mean"].notna().all()
    lengths = rows["seconds_mean"] if known else rows["epochs_mean"]
    spread = rows["seconds_std"] if known else rows["epochs_std"]
    for position, (method, row) in enumerate(rows.iterrows()):
        length, std = lengths[method], np.nan_to_num(spread[method])
        right.barh(position, length, color=styles[method]["color"], height=0.6)
        right.errorbar(length, position, xerr=std or None, color=INK, capsize=3, linewidth=1)
        epochs = f"{number(row['epochs_mean'], 0 if row['epochs_mean'].is_integer() else 1)} epochs"
        label = f"{duration(length)}, {epochs}" if known else epochs
        right.annotate(label, (length + std, position), (6, 0), textcoords="offset points", va="center", fontsize=9.5)
    methods_axis(right, methods)
    right.set_xlim(0, 2.0 * max((lengths + spread.fillna(0)).max(), 1e-9))
    right.xaxis.set_major_locator(MaxNLocator(nbins=5))
    right.set_xlabel("seconds in all, mean of the seeds" if known else "retraining epochs, mean of the seeds")
    right.set_title("Cost" if known else "Retraining epochs")
    legend_below(figure, left)
    return figure


def epochs_per_iteration(tables: dict[str, pd.DataFrame], methods: list[str]) -> Figure:
    """One bar per method, one segment per iteration: retraining epochs, mean over seeds."""
    figure = new_figure(1.2 + 0.46 * len(methods))
    axes, styles = figure.subplots(), look(methods)
    epochs = tables["comparison"].pivot_table(index="method", columns="iteration", values="epochs").loc[methods]
    longest = epochs.sum(axis=1).max()
    for position, (method, row) in enumerate(epochs.iterrows()):
        start = 0.0
        for order, value in enumerate(row):
            shade = tint(styles[method]["color"], 1.0 if order % 2 == 0 else 0.7)
            axes.barh(position, value, left=start, color=shade, height=0.62)
            if value > 0.012 * len(f"{value:.3g}") * longest:
                middle, color = start + value / 2, ink_on(shade)
                axes.text(middle, position, f"{value:.3g}", ha="center", va="center", color=color, fontsize=9)
            start += value
        axes.annotate(f"{start:.4g} in all", (start, position), (5, 0), textcoords="offset points", va="center")
    methods_axis(axes, methods)
    axes.set_xlim(0, 1.13 * longest)
    axes.set_xlabel("retraining epochs, one segment per iteration (mean of the seeds)")
    return figure


def time_split(tables: dict[str, pd.DataFrame], methods: list[str]) -> Figure:
    """Seconds of all iterations: choosing the masks, training, measuring flow, evaluating on the validation split."""
    figure = new_figure(1.7 + 0.46 * len(methods))
    axes, styles = figure.subplots(), look(methods)
    rows = tables["summary"].set_index("method").loc[methods]
    longest = max(np.nan_to_num(rows["seconds_mean"]).max(), 1e-9)
    for position, (method, row) in enumerate(rows.iterrows()):
        start, color = 0.0, styles[method]["color"]
        for part, (hatch, strength) in PARTS.items():
            length = np.nan_to_num(row[f"{part}_seconds_mean"])
            face = tint(color, strength)
            axes.barh(
                position, length, left=start, facecolor=face, edgecolor="white", hatch=hatch, height=0.62, linewidth=0
            )
            start += length
        label = duration(row["seconds_mean"]) if row["seconds_mean"] == row["seconds_mean"] else "times not recorded"
        axes.annotate(label, (start, position), (5, 0), textcoords="offset points", va="center")
    methods_axis(axes, methods)
    axes.set_xlim(0, 1.2 * longest)
    axes.set_xlabel("seconds for all iterations (mean of the seeds)")
    keys = [
        Patch(facecolor=tint(INK, strength), edgecolor="white", hatch=hatch, label=PART_NAMES[part], linewidth=0)
        for part, (hatch, strength) in PARTS.items()
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=4)
    return figure


def distance_to_reference(tables: dict[str, pd.DataFrame], methods: list[str]) -> Figure:
    """Distance to Phi* after each retraining epoch, one panel per method that measures it, one line per seed."""
    histories, comparison, styles = tables["histories"], tables["comparison"], look(methods)
    measured = [method for method in methods if histories.loc[histories["method"] == method, "distance"].notna().any()]
    if not measured:
        return sentence_figure("No method of this study measures its flow.")
    figure, panels = panel_grid(len(measured), 2, 3.4, common_y=False)  # two flows, two units
    for axes, method in zip(panels, measured, strict=True):
        rows = histories[histories["method"] == method].dropna(subset="distance")
        widths = histories[histories["method"] == method].groupby("iteration")["epoch"].max()
        starts = widths.cumsum() - widths
        for seed, chain in rows.groupby("seed"):
            first = seed == rows["seed"].min()
            for t, epochs in chain.groupby("iteration"):
                x = starts[t] + epochs["epoch"] - 0.5
                style = styles[method] | {"linestyle": "-"}
                axes.plot(x, epochs["distance"], **style, markersize=4, linewidth=1.2, alpha=1 if first else 0.55)
        epsilon = comparison.loc[comparison["method"] == method, "epsilon"].dropna().unique()
        for value in epsilon:
            axes.axhline(value, color=INK, linewidth=1.1, linestyle=DASHES)
        for border in starts.iloc[1:]:
            axes.axvline(border, color=BORDER, linewidth=1, zorder=0)
        axes.set_xticks(starts + widths / 2, [str(t) for t in starts.index])
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(0, widths.sum())
        axes.set_ylim(0, 1.1 * max([rows["distance"].max(), *epsilon[np.isfinite(epsilon)]]))
        limits = ", ".join(f"{value:g}" for value in epsilon)
        axes.set_title(f"{method_name(method)} (dashed: \u03b5 = {limits})")
        axes.set_xlabel("iteration (as wide as its epochs)")
    figure.supylabel("distance to \u03a6*", fontsize=10.5)
    return figure


def layer_density(tables: dict[str, pd.DataFrame], methods: list[str]) -> Figure:
    """Heat map of the density of each layer (rows, input at the top) after each iteration (columns), per method."""
    layers = tables["layers"]
    names = list(dict.fromkeys(layers["layer"]))
    figure, panels = panel_grid(len(methods), 3, max(1.9, 0.7 + 0.27 * len(names)))
    lowest = min(0.1, layers.loc[layers["density"] > 0, "density"].min())
    for axes, method in zip(panels, methods, strict=True):
        rows = layers[layers["method"] == method]
        cells = rows.pivot_table(index="layer", columns="iteration", values="density").loc[names]
        edges = np.arange(len(cells.columns) + 1) - 0.5, np.arange(len(names) + 1) - 0.5
        shown = cells.clip(lower=lowest)
        mesh = axes.pcolormesh(
            *edges, shown, cmap="viridis", norm=LogNorm(lowest, 1), edgecolors="white", linewidth=0.6
        )
        if cells.size <= MOST_CELLS_LABELLED:
            for (row, column), value in np.ndenumerate(cells.to_numpy()):
                text = f"{100 * value:.0f}" if value >= 0.0995 else f"{100 * value:.2g}"
                color = ink_on(mesh.to_rgba(max(value, lowest)))
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
        axes.set_title(method_name(method))
        axes.set_xticks(*[cells.columns] * 2)
        axes.set_yticks(range(len(names)), names, fontsize=9 if len(names) <= 24 else 6)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("iteration (0: dense)")
    bar = figure.colorbar(mesh, ax=panels, shrink=0.9, aspect=30, pad=0.02)
    percent_ticks(density_ticks(lowest), bar.ax.yaxis)
    bar.outline.set_visible(False)
    bar.set_label("density, mean of the seeds")
    return figure


def pq_index(tables: dict[str, pd.DataFrame], methods: list[str]) -> Figure:
    """Mean PQ index of the alive weights, layers weighted by their alive weights, after each iteration."""
    layers, styles = tables["layers"].dropna(subset="pq_index"), look(methods)
    weighted = layers.assign(weighted=layers["pq_index"] * layers["alive"])
    keys = ["method", "iteration", "seed"]
    sums = weighted.groupby(keys)[["weighted", "alive"]].sum()
    per_seed = (sums["weighted"] / sums["alive"]).unstack("seed")
    figure = new_figure(4.0)
    axes = figure.subplots()
    for method in methods:
        mean, std = per_seed.loc[method].mean(axis=1), per_seed.loc[method].std(axis=1).fillna(0.0)
        axes.fill_between(mean.index, mean - std, mean + std, color=styles[method]["color"], alpha=0.1, linewidth=0)
        axes.plot(mean.index, mean, **styles[method], markersize=5, linewidth=1.8, label=method_name(method))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("iteration (0: dense)")
    axes.set_ylabel("PQ index (p = 0.5, q = 1)")
    axes.grid(color=GRID)
    legend_below(figure, axes)
    return figure


Draw = Callable[[dict[str, pd.DataFrame], list[str]], Figure]
SAVED: dict[str, Draw] = {
    "headline": headline,
    "accuracy_against_density": accuracy_against_density,
    "accuracy_against_channels": accuracy_against_channels,
    "epochs_per_iteration": epochs_per_iteration,
    "distance_to_reference": distance_to_reference,
    "time_split": time_split,
    "layer_density": layer_density,
}
INLINE_ONLY: dict[str, Draw] = {"pq_index": pq_index, "layer_ratios": layer_ratios}
