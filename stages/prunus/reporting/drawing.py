"""What the figures share: style, axes, and turning a matplotlib ``Figure`` into PNG files and inline SVG."""

import re
from io import StringIO
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from prunus.reporting.names import method_name

matplotlib.use("Agg")

WIDTH = 9.0  # inches
PNG_DPI = 150
INK, FAINT, GRID, BORDER = "#222222", "#8a8a8a", "#e6e6e6", "#dddddd"
DASHES = (0, (4, 3))
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
TICKS_WIDE = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
TICKS_NARROW = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1)


def style():
    """A context in which figures are drawn and saved in the report's style."""
    return matplotlib.rc_context(STYLE)


def new_figure(height: float) -> Figure:
    """An empty figure of the common width, ``height`` inches high, that makes room for its labels itself."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def panel_grid(panels: int, columns: int, height: float) -> tuple[Figure, list]:
    """A figure of ``panels`` axes with a common y scale, rows ``height`` inches high; places left over stay empty."""
    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure = new_figure(height * rows)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for empty in axes[panels:]:
        empty.set_axis_off()
    return figure, list(axes[:panels])


def percent_ticks(values, axis) -> None:
    """Ticks at the fractions ``values``, written in percent, and no others."""
    axis.set_major_locator(FixedLocator(values))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}\u202f%"))


def density_axis(axes, sparsest: float) -> None:
    """A log x axis from dense (left) to ``sparsest`` (right)."""
    axes.set_xscale("log")
    axes.set_xlim(1.04, sparsest / 1.06)
    percent_ticks(TICKS_WIDE if sparsest < 0.12 else TICKS_NARROW, axes.xaxis)
    axes.set_xlabel("density (fraction of weights alive)")


def methods_axis(axes, methods: list[str]) -> None:
    """A y axis with one line per method, the first at the top, for horizontal bars."""
    axes.set_yticks(range(len(methods)), [method_name(method) for method in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)


def legend_below(figure: Figure, axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))


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
