"""What the figures share: style, axes, and turning a matplotlib ``Figure`` into PNG files and inline SVG."""

import re
from io import StringIO
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from prunus.reporting.names import method_name

matplotlib.use("Agg")

WIDTH = 9.0  # inches
PNG_DPI = 150
INK, SOFT, FAINT, GRID, BORDER = "#222222", "#5b6167", "#8a8a8a", "#e6e6e6", "#dddddd"
DASHES = (0, (4, 3))
LEGEND_WIDTH, LEGEND_HANDLE = 105, 10  # of a figure and of a line's sample with its margins, in characters
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "hatch.linewidth": 1.2,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
}
# Densities worth a tick, the most welcome first.
TICKS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.8, 0.3, 0.6, 0.4, 0.7, 0.9, 0.15, 0.03, 0.003)
MOST_BANDS = 7
MOST_CELLS_LABELLED = 200  # in a heat map; more would not be read
TICK_DISTANCE = 0.12  # smallest distance of two ticks, as a share of the axis; nearer labels would touch


def style():
    """A context in which figures are drawn and saved in the report's style."""
    return matplotlib.rc_context(STYLE)


def new_figure(height: float) -> Figure:
    """An empty figure of the common width, ``height`` inches high, that makes room for its labels itself."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def sentence_figure(sentence: str) -> Figure:
    """Words in place of a figure that has nothing to show."""
    figure = new_figure(1.4)
    figure.text(0.5, 0.5, sentence, ha="center", va="center")
    return figure


def panel_grid(panels: int, columns: int, height: float, common_y: bool = True) -> tuple[Figure, list]:
    """A figure of ``panels`` axes (with a common y scale, if asked), rows ``height`` inches high."""
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure = new_figure(height * rows)
    axes = figure.subplots(rows, columns, sharey=common_y, squeeze=False).ravel()
    for empty in axes[panels:]:
        empty.set_axis_off()
    return figure, list(axes[:panels])


def percent_ticks(values, axis) -> None:
    """Ticks at the fractions ``values``, written in percent, and no others."""
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}\u202f%"))


def density_ticks(sparsest: float) -> list[float]:
    """Round densities from 1 down to ``sparsest``, far enough apart on a log axis for their labels."""
    span, chosen = np.log(1 / sparsest), []
    for tick in TICKS:
        if tick >= sparsest and all(abs(np.log(tick / other)) >= TICK_DISTANCE * span for other in chosen):
            chosen.append(tick)
    return chosen


def density_axis(axes, sparsest: float) -> None:
    """A log x axis from dense (left) to ``sparsest`` (right)."""
    axes.set_xscale("log")
    margin = max((1 / sparsest) ** 0.04, 1.01)  # a study that pruned nothing has an axis too
    axes.set_xlim(margin, sparsest / margin)
    percent_ticks(density_ticks(sparsest / margin), axes.xaxis)
    axes.set_xlabel("density (fraction of weights alive)")


def tint(color: str, strength: float) -> tuple[float, ...]:
    """``color`` mixed with white: 1 leaves it as it is, 0 is white. Opaque, unlike an alpha."""
    return tuple(1 - strength * (1 - part) for part in to_rgb(color))


def ink_on(background) -> str:
    """White or dark, whichever is read more easily on the RGB or RGBA colour ``background``."""
    red, green, blue = to_rgb(background)
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.52 else "white"


def accuracy_curves(axes, comparison: pd.DataFrame, styles: dict[str, dict], x: str, dense_at: float, dots: bool):
    """Mean test accuracy of each iteration at its mean ``x``, with a band of one standard deviation over seeds.

    One curve per method of ``styles``; it starts thin at the dense network, which has ``x`` = ``dense_at``. ``dots``
    shows the single seeds too. More than ``MOST_BANDS`` bands would hide each other and are left out.
    """
    dense = comparison.groupby("seed")["dense_test_accuracy"].first().mean()
    axes.axhline(dense, color=FAINT, linewidth=1, linestyle=DASHES, zorder=1, label="dense network")
    for method, style in styles.items():
        rows, color = comparison[comparison["method"] == method], style["color"]
        if dots:
            for _, chain in rows.groupby("seed"):
                axes.plot(chain[x], chain["test_accuracy"], ".", color=color, alpha=0.35, zorder=2)
        by_iteration = rows.groupby("iteration")
        at = np.r_[dense_at, by_iteration[x].mean()]
        mean = np.r_[dense, by_iteration["test_accuracy"].mean()]
        std = np.r_[0.0, by_iteration["test_accuracy"].std().fillna(0.0)]
        if len(styles) <= MOST_BANDS:
            axes.fill_between(at[1:], (mean - std)[1:], (mean + std)[1:], color=color, alpha=0.1, linewidth=0)
        axes.plot(at[:2], mean[:2], color=color, linewidth=0.9, alpha=0.5, zorder=2)
        axes.plot(at[1:], mean[1:], **style, markersize=5, linewidth=1.8, label=method_name(method), zorder=3)
    if comparison["untrainable"].any():
        _leave_out_collapses(axes, comparison.loc[comparison["untrainable"] == 0, "test_accuracy"], dense)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.6g}\u202f%"))
    axes.set_ylabel("test accuracy")
    axes.grid(color=GRID)
    axes.set_axisbelow(True)


def _leave_out_collapses(axes, accuracies: pd.Series, dense: float) -> None:
    """A y axis of the trainable networks: with one at chance level in the frame, nothing else could be told apart."""
    seen = [dense, *accuracies]
    margin = max(0.06 * (max(seen) - min(seen)), 0.001)
    axes.set_ylim(min(seen) - margin, max(seen) + margin)
    said = "below the frame: untrainable collapse"
    box = {"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 2}
    axes.text(0.015, 0.02, said, transform=axes.transAxes, fontsize=8.5, color=SOFT, zorder=4, bbox=box)


def methods_axis(axes, methods: list[str]) -> None:
    """A y axis with one line per method, the first at the top, for horizontal bars."""
    axes.set_yticks(range(len(methods)), [method_name(method) for method in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)


def legend_columns(labels: list[str]) -> int:
    """The most columns, filled one after the other, that fit the width of a figure; of as many rows the fewest."""
    for columns in range(min(6, len(labels)), 1, -1):
        rows = -(-len(labels) // columns)
        filled = [labels[start : start + rows] for start in range(0, len(labels), rows)]
        if sum(max(map(len, column)) + LEGEND_HANDLE for column in filled) <= LEGEND_WIDTH:
            return len(filled)
    return 1


def legend_below(figure: Figure, axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels), handlelength=3)


def save_png(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=PNG_DPI, metadata={"Software": None})


def inline_svg(figure: Figure, name: str) -> str:
    """``figure`` as an ``<svg>`` element for an HTML page: the same bytes every time, no metadata, no foreign address.

    ``name`` goes in front of every id, since several figures share one page.
    """
    text = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    element = text.getvalue()
    element = element[element.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", element)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", element)
