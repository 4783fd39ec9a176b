"""Evaluate the trained dense network of one seed: test accuracy, operations and the sparsity of its layers.

python stages/evaluate_dense.py --seed 0

Runs once per seed; the evaluations of the seed's chains read its output.
"""

import prunus.run.warm  # noqa: F401 - first: does not return where a warm process runs this script

# isort: split
import argparse
import os
from pathlib import Path

from prunus import networks
from prunus.evaluation.images import load_test
from prunus.evaluation.layers import LAYER_COLUMNS, layer_table
from prunus.evaluation.macs import multiply_accumulates
from prunus.networks import checkpoint
from prunus.run.device import open_device
from prunus.run.errors import one_line_errors
from prunus.run.files import write_csv, write_json
from prunus.run.record import Obeys, Recorder
from prunus.study import layout
from prunus.study.params import for_stage
from prunus.training.accuracy import BATCH, accuracy

PARAMS = [
    "study.dataset",
    "study.network",
    "network",
    "data.split_seed",
    "evaluation.fraction",
    "device.accelerator",
    "device.threads",
]


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    seed = parser.parse_args().seed
    params = for_stage(PARAMS)
    obeys = Obeys(Path(__file__), PARAMS, params)
    device = open_device(params.device.accelerator, params.device.threads)
    folder, pretrain = layout.evaluation(seed, "dense"), layout.pretrain_command(seed)
    with Recorder(layout.evaluation_record(seed, "dense"), device, params.device.threads, obeys=obeys) as recorder:
        dataset = load_test(device, params.evaluation.fraction, params.data.split_seed)
        images = len(dataset.splits["test"].labels)
        recorder.measured["test_images"] = images
        network = networks.of_study(params.study.network, params.network, dataset.form).to(device)
        alive = checkpoint.load_into(network, layout.rewind_point(seed, "trained"), device, pretrain)
        macs = multiply_accumulates(network, dataset.shape, alive)
        with recorder.clock.time("evaluation"):
            test_accuracy = accuracy(network, dataset, "test", BATCH)
        write_csv(folder / "layers.csv", layer_table(network, alive, macs), list(LAYER_COLUMNS))
        write_json(
            folder / layout.METRICS_NAME,
            {
                "dataset": params.study.dataset,
                "network": params.study.network,
                "seed": seed,
                "test_images": images,
                "test_accuracy": test_accuracy,
                "macs": sum(macs.values()),
            },
        )
    print(f"seed {seed} dense: test accuracy {test_accuracy:.2%} on {images:,} images, in {folder}")


if __name__ == "__main__":
    with one_line_errors():
        main()
