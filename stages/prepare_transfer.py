"""Read another dataset, on which the pruned networks are retrained, and split it by the same rules as the study's.

python stages/prepare_transfer.py --dataset fashion_mnist
"""

import prunus.run.warm  # noqa: F401 - first: does not return where a warm process runs this script

# isort: split
import argparse
import os
from pathlib import Path

from prunus.run.errors import one_line_errors
from prunus.run.record import Obeys, Recorder
from prunus.sources.prepare import prepare
from prunus.study import layout
from prunus.study.params import for_stage

PARAMS = [
    "data.validation_fraction",
    "data.test_fraction",
    "data.split_seed",
    "data.image_folder",
    "transfer.classes",
    "transfer.fraction",
]


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True)
    dataset = parser.parse_args().dataset
    params = for_stage(PARAMS)
    obeys = Obeys(Path(__file__), PARAMS, params)
    record = layout.record("transfers", dataset, "data")
    seeds = {"split": params.data.split_seed}
    with Recorder(record, seeds=seeds, obeys=obeys) as recorder:
        summary = prepare(
            dataset,
            layout.transfer_dataset(dataset),
            params.data.image_folder,
            recorder,
            classes=params.transfer.classes,
            fraction=params.transfer.fraction,
            imbalance=1.0,
            test_fraction=params.data.test_fraction,
            validation_fraction=params.data.validation_fraction,
            seed=params.data.split_seed,
        )
    print(summary)


if __name__ == "__main__":
    with one_line_errors():
        main()
