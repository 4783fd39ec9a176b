"""How charts look: colours for light and dark, fonts, and Vega-Lite's configuration made of them."""

# Okabe and Ito's colour-blind safe palette (https://jfly.uni-koeln.de/color/) without its yellow, too light for lines.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
SOLID, DASHED = [1, 0], [5, 4]
DASHES = (SOLID, DASHED, [1, 3], [8, 3, 1, 3])  # one for every round of the colours

DEEP = (0, 6)  # the deep colours of the series, blue and grey
LIGHT = {
    "paper": "#ffffff",
    "ink": "#1d1f21",
    "soft": "#5b6167",
    "faint": "#8a8f94",
    "grid": "#e4e6e8",
    **{f"series-{position}": color for position, color in enumerate(SERIES)},
    # The parts of time: greys, so that no part looks like a method, and one colour for the cost of flow.
    "part-0": "#30363b",
    "part-1": "#7d868e",
    "part-2": "#b5127c",
    "part-3": "#c3c9ce",
    # Words on bars of a deep colour, and on the others.
    "on-deep": "#ffffff",
    "on-bright": "#16181a",
    "alarm": "#b3261e",  # of the box that says what is missing
}
DARK = LIGHT | {
    "paper": "#16181a",
    "ink": "#e6e7e8",
    "soft": "#a4abb1",
    "faint": "#6d747a",
    "grid": "#2c3135",
    "series-0": "#3f97d8",
    "series-6": "#c4c8cc",
    "part-0": "#e0e3e6",
    "part-1": "#8b949c",
    "part-2": "#f06cbc",
    "part-3": "#454c52",
    "on-deep": "#16181a",
    "alarm": "#ff8a80",
}

PAGE_FONT, PAPER_FONT = "system-ui, sans-serif", "Liberation Sans"  # the second one comes with vl-convert
FORMAT_LOCALE = {"decimal": ".", "thousands": ",", "grouping": [3], "currency": ["", ""], "percent": "\u202f%"}


def css_variables(colors: dict[str, str]) -> str:
    """``colors`` as declarations of CSS custom properties."""
    return " ".join(f"--{name}: {value};" for name, value in colors.items())


def page_config() -> dict:
    """The configuration of charts in a page: colours are CSS variables, so dark mode and print need no redrawing."""
    return _config({name: f"var(--{name})" for name in LIGHT}, PAGE_FONT)


def paper_config() -> dict:
    """The configuration of charts in image files."""
    return _config(LIGHT, PAPER_FONT) | {"background": LIGHT["paper"]}


def _config(color: dict[str, str], font: str) -> dict:
    words = {"labelColor": color["ink"], "titleColor": color["ink"]}
    words |= {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    lines = {"gridColor": color["grid"], "domainColor": color["faint"], "tickColor": color["faint"], "tickSize": 4}
    return {
        "font": font,
        "background": "transparent",
        "aria": False,  # the element around a chart says what it is, the table below it what it shows
        "padding": {"left": 2, "right": 12, "top": 4, "bottom": 2},
        "view": {"stroke": None},
        "axis": words
        | lines
        | {"labelPadding": 5, "titlePadding": 9, "labelOverlap": "greedy", "labelSeparation": 7}
        | {"labelLimit": 170, "labelFlush": False},
        "axisBand": {"domain": False, "ticks": False, "grid": False},
        "legend": words
        | {"title": None, "orient": "bottom", "direction": "horizontal", "symbolSize": 70}
        | {
            "symbolStrokeWidth": 1.5,
            "symbolOpacity": 1,
            "columnPadding": 14,
            "rowPadding": 5,
            "labelLimit": 230,
            "offset": 14,
        },
        "title": {"anchor": "start", "fontSize": 13, "color": color["ink"], "offset": 10, "fontWeight": 600},
        "range": {
            "category": [color[f"series-{position}"] for position in range(len(SERIES))],
            "ordinal": [color[f"part-{position}"] for position in range(4)],
            "symbol": list(SHAPES),
        },
        "style": {
            "label": {"color": color["ink"], "fontSize": 11.5},
            "on-deep": {"color": color["on-deep"], "fontSize": 11},
            "on-bright": {"color": color["on-bright"], "fontSize": 11},
            "cell": {"stroke": color["paper"], "strokeWidth": 1},
            "note": {"color": color["soft"], "fontSize": 11},
            "reference": {"color": color["faint"], "strokeDash": DASHED, "strokeWidth": 1},
            "limit": {"color": color["ink"], "strokeDash": DASHED, "strokeWidth": 1.2},
            "border": {"color": color["grid"], "strokeWidth": 1},
            "whisker": {"color": color["ink"], "strokeWidth": 1},
        },
    }
