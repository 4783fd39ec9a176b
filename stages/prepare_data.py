"""Read the study's dataset, cut it into training, validation and test images, and write them as one file.

python stages/prepare_data.py
"""

import argparse
import os
from pathlib import Path

from prunus import datasets, layout, sources
from prunus.params import for_stage
from prunus.runtime import Recorder, one_line_errors

PARAMS = ["study.dataset", "data"]


def main() -> None:
    os.chdir(layout.ROOT)
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    params = for_stage(PARAMS)
    with Recorder(layout.record("data"), seeds={"split": params.data.split_seed}) as recorder:
        with recorder.clock.time("read"):
            source = sources.read(
                params.study.dataset,
                layout.RAW_DATA,
                Path(params.data.image_folder.path).expanduser(),
                params.data.image_folder.side,
            )
        source = datasets.with_test(source, params.data.test_fraction, params.data.split_seed)
        source = datasets.of_classes(source, params.data.classes)
        splits = datasets.cut(
            source,
            params.data.test_fraction,
            params.data.validation_fraction,
            params.data.split_seed,
            params.data.fraction,
            params.data.imbalance,
        )
        datasets.save(layout.DATASET, params.study.dataset, splits, source.classes)
    sizes = ", ".join(f"{len(splits[split].labels)} {split}" for split in datasets.SPLITS)
    shape = "x".join(map(str, splits["train"].images.shape[1:]))
    print(f"{params.study.dataset}: {sizes} images of {shape}, {len(source.classes)} classes, in {layout.DATASET}")


if __name__ == "__main__":
    with one_line_errors():
        main()
