"""Draw the figures and write the interactive report, one HTML file, from the tables that compare made.

python stages/report.py
"""

import prunus.run.warm  # noqa: F401 - first: does not return where a warm process runs this script

# isort: split
import argparse
import os

from prunus.comparing.files import COLUMNS, read_table
from prunus.reporting.charts.figures import draw, png
from prunus.reporting.page import render
from prunus.run.errors import StageError, one_line_errors
from prunus.run.files import read_json, write_atomically
from prunus.study import layout
from prunus.study.params import for_stage

PARAMS = [
    "study",
    "imposed",
    "transfer",
    "data",
    "network",
    "training",
    "flow",
    "information",
    "evaluation",
    "device",
    "methods",
]

COMPARE = "python stages/compare.py"
TABLES = (
    "comparison",
    "summary",
    "paired_tests",
    "equal_density",
    "matched_density",
    "matched_channels",
    "collapse",
    "channels",
    "layers",
    "histories",
    "transfer",
    "information",
    "runs",
    "missing",
)


def main() -> None:
    os.chdir(layout.ROOT)
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    params = for_stage(PARAMS)
    study = params.study.model_copy(update={"methods": [*params.study.methods, *params.imposed.chains]})
    tables = {name: read_table(layout.TABLES / f"{name}.csv", COMPARE, COLUMNS[name]) for name in TABLES}
    metrics = read_json(layout.METRICS, COMPARE, dict.fromkeys(study.methods, dict[str, float]))
    if list(tables["summary"]["method"]) != study.methods:
        raise StageError(f"{layout.TABLES} has other methods than the study; `{COMPARE}` makes it anew")
    charts = draw(tables, study.methods)
    for name, chart in charts.items():
        with write_atomically(layout.FIGURES / f"{name}.png") as partial:
            partial.write_bytes(png(name, chart))
    sections = (
        params.transfer,
        params.data,
        params.network,
        params.training,
        params.flow,
        params.information,
        params.evaluation,
        params.device,
    )
    settings = {
        "study": params.study.model_dump(),
        "imposed": params.imposed.model_dump(),
        **{type(section).__name__.lower(): section.model_dump() for section in sections},
        "methods": params.methods,
    }
    with write_atomically(layout.REPORT) as partial:
        page = render(study, settings, tables, metrics, charts, params.imposed.ratio_of)
        partial.write_text(page, encoding="utf-8")
    print(f"{len(charts)} figures in {layout.FIGURES}, the report in {layout.REPORT}")


if __name__ == "__main__":
    with one_line_errors():
        main()
