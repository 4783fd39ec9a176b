"""The frame of a report: one HTML file with its style, its script, Vega and the data of its charts.

It loads nothing else: its own content security policy forbids that.
"""

import json
import re
from pathlib import Path

import jinja2
from markupsafe import Markup

from prunus.reporting.charts import theme
from prunus.reporting.charts.drawing import VEGA_LITE, Chart

FOLDER = Path(__file__).parent


def render(template: str, title: str, charts: dict[str, Chart | None], methods: list[str], **content) -> str:
    """The page with the content of ``template``, a file beside this one that uses the macros of macros.html.j2.

    ``charts``: those that the template may show, by name; None is skipped. ``methods``: the names in the column
    ``method`` of the charts, in the order of their colours. ``content``: what else the template shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    charts = {name: chart for name, chart in charts.items() if chart}
    body = environment.get_template(template).render(title=title, charts=charts, **content)
    shown = {name: chart.for_page() for name, chart in charts.items() if f'data-chart="{name}"' in body}
    drawing = {"charts": shown, "config": theme.page_config(), "formatLocale": theme.FORMAT_LOCALE}
    return environment.get_template("frame.html.j2").render(
        title=title,
        body=Markup(body),
        sections=re.findall(r'<h2 id="([^"]+)">([^<]+)</h2>', body),
        methods=methods,
        colors=len(theme.SERIES),
        light=theme.css_variables(theme.LIGHT),
        dark=theme.css_variables(theme.DARK),
        style=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        vega=_inline(_vega()),
        script=_inline((FOLDER / "report.js").read_text(encoding="utf-8")),
        # Only "<" could end a script element.
        drawing=Markup(json.dumps(drawing, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")),
    )


def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script that defines ``vegaEmbed``."""
    import vl_convert  # only where it is needed: it starts a JavaScript engine

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)


def _inline(script: str) -> Markup:
    """``script`` for a ``<script>`` element, which the text ``</script`` would end, even in a string."""
    return Markup(re.sub(r"<(?=/script|!--)", r"\\x3c", script, flags=re.IGNORECASE))
