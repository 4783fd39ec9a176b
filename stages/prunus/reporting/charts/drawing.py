"""The parts of charts, and how one definition becomes a drawing in a page and a PNG file.

A chart is one or more Vega-Lite views (https://vega.github.io/vega-lite) beside each other. In a page each view fills
its place whatever the width of the window; on paper they are concatenated at a fixed width.
"""

import itertools
import json
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from prunus.reporting.charts import theme
from prunus.reporting.names import NARROW

VEGA_LITE = "6.4"  # of the versions that vl-convert holds; page and PNG use the same
PAPER_WIDTH, PANEL_GAP = 880, 28  # pixels
KEY_MARGIN = 16  # of a key with an axis, whose outermost labels reach beyond it
PNG_SCALE = 2
DIMMED = 0.1  # opacity of methods that are not among those picked in a legend
MOST_CELLS_LABELLED = 200  # in a heat map; nobody would read more
# Densities worth a tick, the most welcome first.
TICKS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.8, 0.3, 0.6, 0.4, 0.7, 0.9, 0.15, 0.03, 0.003)
TICK_DISTANCE = 0.1  # smallest distance of two ticks, as a share of the axis; nearer labels would touch
SPAN, WHOLE = "span", "whole"  # the names, in expressions, of the widths of a panel's plot and of a whole chart
LETTER = 6.2  # pixels that a letter of a label takes, on average

UNITS = (1.0, "seconds", "s"), (60.0, "minutes", "min"), (3600.0, "hours", "h")

PERCENT, POINTS, SHORT, TENTHS = ".4~%", ".2%", ",.5~g", ",.1f"  # d3-format
Columns = dict[str, tuple[str, str | None]]


@dataclass(frozen=True)
class Chart:
    """``panels``: Vega-Lite views without a width; their data are the tables of ``datasets``, by name.

    ``alt`` says in words what is drawn. ``columns``: title and d3 format (None for words) of those columns of the
    dataset ``rows`` that a reader may want to see as a table. ``across``: how many panels stand beside each other where
    there is room. ``key`` is a view below all of them, in full width. ``margins``: pixels that the panels' y axes take.
    """

    panels: list[dict]
    datasets: dict[str, list[dict]]
    alt: str
    columns: Columns = field(default_factory=dict)
    across: int = 1
    key: dict | None = None
    margins: tuple[int, ...] = (62,)

    def for_page(self) -> dict:
        """What the page's script needs to draw the chart and write the table of its numbers, ready for JSON."""
        sized = {"width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}
        # The width of the page's column does not change while a plot is fitted into it, unlike the plot's.
        column = "width > 0 && isFinite(containerSize()[0]) ? containerSize()[0] : 300"
        widths = [{"name": SPAN, "expr": "width"}, {"name": WHOLE, "expr": column}]
        columns = [{"field": name, "title": title, "format": form} for name, (title, form) in self.columns.items()]
        views = [*self.panels, *([self.key] if self.key else [])]
        return {
            "panels": [panel | sized | {"params": widths + panel.get("params", [])} for panel in views],
            "datasets": self.datasets,
            "columns": columns,
        }

    def png(self) -> bytes:
        import vl_convert  # only where it is needed: it starts a JavaScript engine

        across = min(self.across, len(self.panels))
        share = (PAPER_WIDTH - (across - 1) * PANEL_GAP) / across
        widths = [share - self.margins[position % len(self.margins)] for position in range(len(self.panels))]
        panels = [panel | {"width": width} for panel, width in zip(self.panels, widths, strict=True)]
        spec = {"concat": panels, "columns": across, "spacing": PANEL_GAP}
        if self.key:
            scales = {"scale": dict.fromkeys(("x", "y", "color", "shape"), "independent")}
            spec = {"vconcat": [spec, self.key | {"width": PAPER_WIDTH - KEY_MARGIN}], "spacing": 6, "resolve": scales}
        spec |= {"params": [{"name": SPAN, "value": min(widths)}, {"name": WHOLE, "value": PAPER_WIDTH}]}
        spec |= {"datasets": self.datasets}
        spec |= {"config": theme.paper_config(), "padding": 12}
        return vl_convert.vegalite_to_png(
            spec, vl_version=VEGA_LITE, scale=PNG_SCALE, format_locale=theme.FORMAT_LOCALE, allowed_base_urls=[]
        )


def sentence(words: str) -> Chart:
    """Words in place of a chart with nothing to show."""
    return Chart([layer("text", {}, None, text=words, fontSize=14) | {"height": 60}], {}, words)


def records(table: pd.DataFrame) -> list[dict]:
    """The rows of ``table`` as plain values with six significant digits, None for unknown values."""
    rounded = table.copy()
    for name in table.select_dtypes("float"):
        rounded[name] = [float(f"{value:.6g}") if np.isfinite(value) else None for value in table[name]]
    return rounded.astype(object).where(rounded.notna(), None).to_dict("records")


def layer(mark: str, encoding: dict, data: str | None = "rows", where: str | None = None, **properties) -> dict:
    """A view, or a layer of one: ``mark`` with its ``properties``, by ``encoding``.

    ``data`` names a dataset of the chart (None: drawn once); the rows for which ``where`` holds are drawn.
    """
    drawn = {"data": {"name": data} if data else {"values": [{}]}}
    drawn |= {"transform": [{"filter": where}]} if where else {}
    return drawn | {"mark": {"type": mark} | properties, "encoding": encoding}


def quoted(word: str) -> str:
    """``word`` as a string of a Vega expression."""
    return json.dumps(word)


def tooltip(columns: Columns) -> list[dict]:
    return [
        {"field": name, "title": title, "type": "quantitative", "format": form}
        if form
        else {"field": name, "title": title, "type": "nominal"}
        for name, (title, form) in columns.items()
    ]


def axis(title: str | None, form: str = SHORT, ticks: int | None = 6, **more) -> dict:
    """A quantitative axis; ``more`` overrides what is given here."""
    return {"title": title, "format": form, "grid": True} | ({"tickCount": ticks} if ticks else {}) | more


def picking(legend: bool = False) -> list[dict]:
    """A click on a mark, or in the ``legend``, picks a method; with the shift key it is added or taken out."""
    return [
        {"name": "picked", "select": {"type": "point", "fields": ["method"]}} | ({"bind": "legend"} if legend else {})
    ]


def if_picked(opacity: float, otherwise: float | None = None) -> dict:
    """Opacity of a method's marks: ``opacity`` if it or no method is picked, else dimmed."""
    dimmed = min(opacity, DIMMED) / 2 if otherwise is None else otherwise
    return {"condition": {"param": "picked", "value": opacity}, "value": dimmed}


def identity(names: list[str]) -> dict:
    """The encodings that distinguish methods, by their readable names in the column ``method``; see ``legend``.

    ``names``: of all methods of the study, in its order, so that each keeps its colour in every chart; with more
    methods than colours, colours repeat with another shape.
    """
    same = {"field": "method", "type": "nominal", "scale": {"domain": names}, "legend": None}
    return {"color": same, "shape": same}


def legend_columns(labels: list[str], margin: int = 0) -> dict:
    """As many columns of a legend as fit the width of a chart without ``margin`` pixels at its left."""
    width = round(LETTER * max(map(len, labels), default=0) + 46)
    return {"expr": f"max(1, min({len(labels)}, floor(({WHOLE} - {margin}) / {width})))"}


def lines(names: list[str], encoding: dict, where: str = "true", **properties) -> list[dict]:
    """Layers of lines, one for every round of the colours, each with its own dashes; see ``identity``."""
    colors = len(theme.SERIES)
    rounds = [names[start : start + colors] for start in range(0, len(names), colors)]
    filters = [f"{where} && indexof({json.dumps(round_names)}, datum.method) >= 0" for round_names in rounds]
    return [
        layer("line", encoding, where=condition, strokeDash=dash, **properties)
        for condition, dash in zip(filters, itertools.cycle(theme.DASHES), strict=False)
    ]


def legend(names: list[str], shown: list[str] | None = None) -> dict:
    """A legend of ``shown`` (if not all) of the methods ``names`` without a plot: the ``key`` of a chart.

    In a view of its own it can be as wide as the chart, and its height does not depend on the axes of a plot.
    """
    listed = names if shown is None else shown
    form = {"columns": legend_columns(listed), "values": listed, "offset": 0}
    looks = {channel: encoding | {"legend": form} for channel, encoding in identity(names).items()}
    return layer("point", looks, None, filled=True, opacity=0) | {"params": picking(legend=True), "height": 1}


def methods_axis(names: list[str]) -> dict:
    """The y encoding of one line per method, the first at the top."""
    scale = {"domain": names, "paddingInner": 0.4, "paddingOuter": 0.2}
    return {"field": "method", "type": "nominal", "sort": None, "scale": scale, "axis": {"title": None}}


def room_for(labels: pd.Series) -> dict:
    """The part of a scale that leaves room for ``labels`` at the right of its longest bar."""
    return {"rangeMax": {"expr": f"{SPAN} - {round(LETTER * labels.str.len().max()) + 14}"}}


def time_unit(longest: float) -> tuple[float, str, str]:
    """Seconds in the unit that suits times up to ``longest`` seconds, and its names in words and behind a number."""
    return next(unit for unit in UNITS if longest < 120 * unit[0] or unit is UNITS[-1])


def names_width(names: list[str]) -> int:
    """Pixels that the names of methods take beside an axis."""
    return round(min(170, LETTER * max(map(len, names))) + 12)


def density_ticks(sparsest: float) -> list[float]:
    """Round densities from 1 down to ``sparsest``, in this order, far enough apart on a log axis for their labels."""
    span = np.log(1 / sparsest)
    chosen = []
    for tick in TICKS:
        if tick >= sparsest and all(abs(np.log(tick / other)) >= TICK_DISTANCE * span for other in chosen):
            chosen.append(tick)
    return sorted(chosen, reverse=True)  # if labels still do not fit, Vega leaves out later ones


def density_encoding(name: str, sparsest: float, title: str, label: str = "100 * datum.value") -> dict:
    """A log x axis from dense (left) to ``sparsest`` (right); ``label`` is the percentage written at a tick."""
    margin = max((1 / sparsest) ** 0.04, 1.01)  # a study that pruned nothing needs an axis too
    scale = {"type": "log", "reverse": True, "domain": [sparsest / margin, margin], "nice": False}
    words = f"format({label}, '.4~g') + '{NARROW}%'"
    axis = {"title": title, "values": density_ticks(sparsest / margin), "labelExpr": words}
    return {"field": name, "type": "quantitative", "scale": scale, "axis": axis}
