"""How long MIPP takes to choose the channels of a trained network, beside one epoch of training the same network.

python benchmarks/mipp_elimination.py --seed 0

Reads the study of params.yaml and the dense network of the seed (stages prepare_data and pretrain make them), takes the
median of several runs of one process, and prints a table.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import torch

from prunus import channels, checkpoint, layout, masks, networks
from prunus.datasets import load
from prunus.methods import mipp
from prunus.params import read
from prunus.runtime import Clock, open_device, processor
from prunus.stopping import FixedEpochs
from prunus.training import train


def median_seconds(runs, work):
    """Median seconds of ``work()``, and what it returned last."""
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        result = work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken), result


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    params = read()
    device = open_device(params.device.accelerator, params.device.threads)
    dataset = load(layout.DATASET, device)
    network = networks.build(params.study.network, *dataset.form).to(device)
    dense = layout.rewind_point(arguments.seed, "trained")
    checkpoint.load_into(network, dense, device, f"python stages/pretrain.py --seed {arguments.seed}")
    settings = params.methods["mipp"]
    groups = channels.groups(network, dataset.shape)
    everything = channels.alive(groups, masks.ones(network))
    subset = dataset.sample("train", settings.samples, 0)
    images = dataset.normalise(subset.images)
    rows = []
    for predictor in ("linear", "mlp"):
        own = settings.model_copy(update={"predictor": predictor})
        eliminate = lambda own=own: mipp.eliminate(network.eval(), groups, everything, images, own, 0)  # noqa: E731
        seconds, alive = median_seconds(arguments.runs, eliminate)
        rows.append((predictor, seconds, ", ".join(f"{g.name} {int(alive[g.name].sum())}/{g.size}" for g in groups)))
    epoch, _ = median_seconds(
        arguments.runs,
        lambda: train(
            network,
            masks.ones(network),
            dataset,
            params.training.sgd,
            params.training.augment,
            FixedEpochs(1),
            seed=0,
            clock=Clock(device),
            label="one epoch",
        ),
    )
    print(
        f"{params.study.network} on {params.study.dataset}, seed {arguments.seed}, {len(images)} images for MIPP, "
        f"{processor()}, {params.device.threads} thread(s), torch {torch.__version__}, median of {arguments.runs}"
    )
    print(f"{'':<10} {'seconds':>8} {'epochs':>7}  channels kept")
    for name, seconds, kept in [*rows, ("one epoch", epoch, "")]:
        print(f"{name:<10} {seconds:8.2f} {seconds / epoch:7.2f}  {kept}".rstrip())


if __name__ == "__main__":
    main()
