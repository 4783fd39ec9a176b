"""Gather every chain's evaluation and run records into tables, with statistics over seeds, and DVC's metrics.

python stages/compare.py
"""

import argparse
import os

from prunus import layout
from prunus.params import for_stage
from prunus.reporting import matched, statistics, tables
from prunus.runtime import one_line_errors, write_atomically, write_json

PARAMS = ["study", "imposed", "transfer.datasets", "transfer.methods", "information.methods"]

KEYS = ["seed", "method", "iteration"]


def main() -> None:
    os.chdir(layout.ROOT)
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    params = for_stage(PARAMS, methods=False)
    imposed = params.imposed.chains
    study = params.study.model_copy(update={"methods": [*params.study.methods, *imposed]})
    comparison = tables.comparison(study)
    summary, runs = statistics.summary(comparison, study.methods), tables.runs(study, params.information.methods)
    transfer = tables.transfer(study, comparison, params.transfer.datasets, params.transfer.methods)
    results = {
        "comparison": comparison,
        "summary": summary,
        "paired_tests": statistics.paired_tests(comparison, study.methods),
        "equal_density": matched.equal_density(matched.from_dense(comparison, runs)),
        "matched_density": matched.matched_density(comparison, study.methods),
        "matched_channels": matched.matched_channels(comparison, params.imposed.ratio_of, imposed),
        "collapse": statistics.collapse(comparison, study.methods),
        "channels": tables.channels(study),
        "layers": tables.layers(study),
        "histories": tables.histories(study).merge(comparison[[*KEYS, "epsilon"]], on=KEYS, how="left"),
        "transfer": transfer,
        "transfer_summary": statistics.transfer_summary(transfer),
        "runs": runs,
        "information": tables.information(study, params.information.methods),
    }
    for name, table in results.items():
        with write_atomically(layout.TABLES / f"{name}.csv") as partial:
            table.to_csv(partial, index=False)
    write_json(layout.METRICS, statistics.metrics(summary))
    print(f"compared {len(study.methods)} methods over {len(study.seeds)} seeds, in {layout.TABLES}")


if __name__ == "__main__":
    with one_line_errors():
        main()
