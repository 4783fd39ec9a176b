"""Evaluate one chain: per iteration test accuracy, density, multiply-accumulates and bytes; per layer the sparsity.

python stages/evaluate.py --seed 0 --method sap
"""

import argparse
import csv
import os

from prunus import checkpoint, layout, networks
from prunus.datasets import load
from prunus.evaluation import accuracy, layer_table
from prunus.macs import multiply_accumulates
from prunus.params import for_stage
from prunus.runtime import Recorder, one_line_errors, open_device, read_json, write_csv

PARAMS = ["study.dataset", "study.network", "study.iterations", "network", "device.accelerator", "device.threads"]


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--method", required=True)
    arguments = parser.parse_args()
    seed, method = arguments.seed, arguments.method
    params = for_stage(PARAMS)
    device = open_device(params.device.accelerator, params.device.threads)
    folder, name = layout.evaluation(seed, method), f"seed{seed}"
    rows, layers, histories = [], [], []
    with Recorder(layout.record(name, f"{method}/evaluate"), device, params.device.threads) as recorder:
        dataset = load(layout.DATASET, device, splits=("test",))
        network = networks.build(
            params.study.network, *dataset.form, pretrained=params.network.pretrained, download=False
        ).to(device)
        for t in range(len(params.study.iterations) + 1):
            source = layout.iteration(seed, method, t)
            command = f"python stages/prune_iteration.py --seed {seed} --method {method} --iteration {t}"
            made_by = command if t else f"python stages/pretrain.py --seed {seed}"
            alive = checkpoint.load_into(network, source / layout.NETWORK, device, made_by)
            metrics = read_json(source / layout.METRICS_NAME, made_by)
            macs = multiply_accumulates(network, dataset.shape, alive)
            with recorder.clock.time("evaluation"):
                test_accuracy = accuracy(network, dataset, "test")
            keys = {"seed": seed, "method": method, "iteration": t}
            layers += [keys | row for row in layer_table(network, alive, macs)]
            if t == 0:
                dense_accuracy, dense_macs = test_accuracy, sum(macs.values())
                continue
            with open(source / layout.HISTORY, newline="") as file:
                histories += [keys | row for row in csv.DictReader(file)]
            rows.append(
                {
                    "dataset": params.study.dataset,
                    "network": params.study.network,
                    **keys,
                    "density": metrics["density"],
                    "alive": metrics["alive"],
                    "prunable": sum(mask.numel() for mask in alive.values()),
                    "test_accuracy": test_accuracy,
                    "validation_accuracy": metrics["validation_accuracy"],
                    "dense_test_accuracy": dense_accuracy,
                    "macs": sum(macs.values()),
                    "dense_macs": dense_macs,
                    "bytes": (source / layout.NETWORK).stat().st_size,
                    "epochs": metrics["epochs"],
                    "stopped_by": metrics["stopped_by"],
                    "distance": metrics["distance"],
                    "epsilon": metrics["epsilon"],
                    "rewind": metrics["settings"]["rewind"],
                    "recipe": ", ".join(f"{key} {value}" for key, value in metrics["settings"].items()),
                }
            )
        for table, content in {"iterations": rows, "layers": layers, "history": histories}.items():
            write_csv(folder / f"{table}.csv", content)
    last = rows[-1]
    print(
        f"seed {seed} {method}: test accuracy {last['test_accuracy']:.2%} at density {last['density']:.2%} "
        f"(dense {dense_accuracy:.2%}), in {folder}"
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
