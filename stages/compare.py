"""Gather every chain's evaluation and run records into tables, with statistics over seeds, and DVC's metrics.

python stages/compare.py
"""

import argparse
import os

from prunus import layout
from prunus.params import for_stage
from prunus.reporting import statistics, tables
from prunus.runtime import one_line_errors, write_atomically, write_json

PARAMS = ["study"]


def main() -> None:
    os.chdir(layout.ROOT)
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    params = for_stage(PARAMS, methods=False)
    comparison = tables.comparison(params.study)
    summary = statistics.summary(comparison, params.study.methods)
    results = {
        "comparison": comparison,
        "summary": summary,
        "paired_tests": statistics.paired_tests(comparison, params.study.methods),
        "matched_density": statistics.matched_density(comparison, params.study.methods),
        "layers": tables.layers(params.study),
        "histories": tables.histories(params.study),
        "runs": tables.runs(params.study),
    }
    for name, table in results.items():
        with write_atomically(layout.TABLES / f"{name}.csv") as partial:
            table.to_csv(partial, index=False)
    write_json(layout.METRICS, statistics.metrics(summary))
    print(f"compared {len(params.study.methods)} methods over {len(params.study.seeds)} seeds, in {layout.TABLES}")


if __name__ == "__main__":
    with one_line_errors():
        main()
