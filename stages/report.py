"""Draw the figures and write the self-contained HTML report from the tables that compare made.

python stages/report.py
"""

import argparse
import os

from prunus import layout
from prunus.params import for_stage
from prunus.reporting.drawing import inline_svg, save_png, style
from prunus.reporting.figures import INLINE_ONLY, SAVED
from prunus.reporting.files import read_table
from prunus.reporting.page import render
from prunus.runtime import StageError, one_line_errors, read_json, write_atomically

PARAMS = ["study", "imposed"]

COMPARE = "python stages/compare.py"
TABLES = ("comparison", "summary", "paired_tests", "equal_density", "matched_density", "matched_channels", "collapse")
TABLES += ("channels", "layers", "histories", "runs")


def main() -> None:
    os.chdir(layout.ROOT)
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    params = for_stage(PARAMS, methods=False)
    study = params.study.model_copy(update={"methods": [*params.study.methods, *params.imposed.chains]})
    tables = {name: read_table(layout.TABLES / f"{name}.csv", COMPARE) for name in TABLES}
    metrics = read_json(layout.METRICS, COMPARE)
    if list(tables["summary"]["method"]) != study.methods:
        raise StageError(f"{layout.TABLES} is of other methods than the study's; `{COMPARE}` makes it anew")
    pictures = {}
    with style():
        for name, draw in (SAVED | INLINE_ONLY).items():
            figure = draw(tables, study.methods)
            pictures[name] = inline_svg(figure, name)
            if name in SAVED:
                with write_atomically(layout.FIGURES / f"{name}.png") as partial:
                    save_png(figure, partial)
    with write_atomically(layout.REPORT) as partial:
        page = render(study, tables, metrics, pictures, params.imposed.ratio_of)
        partial.write_text(page, encoding="utf-8")
    print(f"{len(SAVED)} figures in {layout.FIGURES}, the report in {layout.REPORT}")


if __name__ == "__main__":
    with one_line_errors():
        main()
