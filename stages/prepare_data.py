"""Read the study's dataset, split it into training, validation and test images, and write them as one file.

python stages/prepare_data.py
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

PARAMS = ["study.dataset", "data"]


def main() -> None:
    os.chdir(layout.ROOT)
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    params = for_stage(PARAMS)
    obeys = Obeys(Path(__file__), PARAMS, params)
    with Recorder(layout.record("data"), seeds={"split": params.data.split_seed}, obeys=obeys) as recorder:
        summary = prepare(
            params.study.dataset,
            layout.DATASET,
            params.data.image_folder,
            recorder,
            classes=params.data.classes,
            fraction=params.data.fraction,
            imbalance=params.data.imbalance,
            test_fraction=params.data.test_fraction,
            validation_fraction=params.data.validation_fraction,
            seed=params.data.split_seed,
        )
    print(summary)


if __name__ == "__main__":
    with one_line_errors():
        main()
