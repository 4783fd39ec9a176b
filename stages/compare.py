"""Gather every chain's evaluation and run records into tables, with statistics over seeds, and DVC's metrics.

If parts of a study failed, the rest is compared; reports/tables/missing.csv lists what is missing, and why.

python stages/compare.py
"""

import prunus.run.warm  # noqa: F401 - first: does not return where a warm process runs this script

# isort: split
import argparse
import os
from itertools import product

from prunus.comparing import matched, missing, statistics, tables
from prunus.comparing.files import write_table
from prunus.run.errors import one_line_errors
from prunus.run.files import write_json
from prunus.study import layout
from prunus.study.params import for_stage

PARAMS = ["study", "imposed", "transfer.datasets", "transfer.methods", "information.methods"]

KEYS = ["seed", "method", "iteration"]


def main() -> None:
    os.chdir(layout.ROOT)
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    params = for_stage(PARAMS)
    imposed = params.imposed.chains
    study = params.study.model_copy(update={"methods": [*params.study.methods, *imposed]})
    comparison = tables.comparison(study)
    ended = statistics.complete(comparison, len(study.iterations))
    summary = statistics.summary(ended, study.methods)
    runs = tables.runs(study, params.information.methods)
    summary["iterations"] = len(study.iterations)
    transfer = tables.transfer(study, comparison, params.transfer.datasets, params.transfer.methods)
    information = tables.information(study, params.information.methods)
    transfers = list(product(params.transfer.datasets, params.transfer.methods))
    absent = missing.missing(study, comparison, transfer, information, transfers, params.information.methods)
    results = {
        "comparison": comparison,
        "summary": summary,
        "paired_tests": statistics.paired_tests(ended, study.methods),
        "equal_density": matched.equal_density(matched.from_dense(ended, runs)),
        "matched_density": matched.matched_density(comparison, study.methods),
        "matched_channels": matched.matched_channels(comparison, params.imposed.ratio_of, imposed),
        "collapse": statistics.collapse(comparison, absent, study.methods),
        "channels": tables.channels(study),
        "layers": tables.layers(study),
        "histories": tables.histories(study).merge(comparison[[*KEYS, "epsilon"]], on=KEYS, how="left"),
        "transfer": transfer,
        "transfer_summary": statistics.transfer_summary(transfer),
        "runs": runs,
        "information": information,
        "missing": absent,
    }
    for name, table in results.items():
        write_table(layout.TABLES / f"{name}.csv", table)
    write_json(layout.METRICS, statistics.metrics(summary, len(study.seeds)))
    print(f"compared {len(study.methods)} methods over {len(study.seeds)} seeds, in {layout.TABLES}")
    if len(absent):
        print(missing.one_line(absent))


if __name__ == "__main__":
    with one_line_errors():
        main()
