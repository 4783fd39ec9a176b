"""Measure the mutual information between the layers of a chain's networks, before and after pruning and retraining.

python stages/measure_information.py --seed 0 --method mipp

The table, runs/evaluations/seed<S>/<method>/information.csv, has a row per iteration, pair of layers and quantity:
``seed``, ``method``, ``iteration``; ``layer``, a channel group; ``next_layer``, the layers that read it; ``quantity``
(before, kept, pruned or retrained: see ``prunus.evaluation.preservation``); ``units`` of the layer that take part;
``mean``, ``low`` and ``high``: the share of the target's variance that they explain on held-out images, and the
Student-t interval at 95 % over the repeats (its splits overlap); ``variance`` of the target, in squared activations.
"""

import prunus.run.warm  # noqa: F401 - first: does not return where a warm process runs this script

# isort: split
import argparse
import copy
import os
from pathlib import Path

from prunus import channels, networks
from prunus.channels.readings import Readings
from prunus.data.dataset import load
from prunus.evaluation import preservation
from prunus.information.estimate import TooFewSamples
from prunus.networks import checkpoint
from prunus.run.device import open_device
from prunus.run.errors import StageError, one_line_errors
from prunus.run.files import write_csv
from prunus.run.record import Obeys, Recorder
from prunus.run.seeds import derive_seed
from prunus.study import layout
from prunus.study.params import for_stage

PARAMS = [
    "study.network",
    "study.iterations",
    "network",
    "information.samples",
    "information.predictor",
    "information.repeats",
    "information.cells",
    "device.accelerator",
    "device.threads",
]


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--method", required=True, help="a method, or a chain of an imposed ratio: thinet_at_mipp")
    arguments = parser.parse_args()
    seed, method = arguments.seed, arguments.method
    base_method, ratio_of = layout.of_chain(method)
    params = for_stage(PARAMS)
    obeys = Obeys(Path(__file__), PARAMS, params)
    device = open_device(params.device.accelerator, params.device.threads)
    seeds = {"information": derive_seed(seed, "information")}  # same images and splits for every chain
    options = {
        "predictor": params.information.predictor,
        "repeats": params.information.repeats,
        "seed": seeds["information"],
    }
    pretrain = layout.pretrain_command(seed)
    table = layout.evaluation(seed, method) / "information.csv"
    record = layout.record(f"seed{seed}", f"{method}/information")
    rows = []
    eased_by = ["information.samples", "information.cells"]
    with Recorder(record, device, params.device.threads, seeds, eased_by, obeys=obeys) as recorder:
        dataset = load(layout.DATASET, device, splits=("train",))
        subset = dataset.sample("train", params.information.samples, seeds["information"])
        images = dataset.normalise(subset.images)
        network = networks.of_study(params.study.network, params.network, dataset.form).to(device)
        groups = channels.groups(network, dataset.shape)

        def made_by(t):
            return layout.prune_command(seed, base_method, t, ratio_of) if t else pretrain

        def loaded(t):
            return checkpoint.load_into(network, layout.iteration(seed, method, t) / layout.NETWORK, device, made_by(t))

        def read(network, alive):
            return Readings(network, groups, images, params.information.cells), channels.alive(groups, alive)

        before = read(network, loaded(0))
        for t in range(1, len(params.study.iterations) + 1):
            pruned = copy.deepcopy(network)
            alive = loaded(t)
            source = layout.iteration(seed, method, t) / layout.PRUNED
            checkpoint.load_pruned(pruned, source, alive, device, made_by(t))
            after = read(network, alive)
            try:
                with recorder.clock.time("information"):
                    measured = list(preservation.step(groups, before, read(pruned, alive)[0], after, **options))
            except TooFewSamples as error:
                relief = error.relief("information", len(images), params.information.samples, params.information.cells)
                raise StageError(f"seed {seed} {method} iteration {t}: {error}; {relief}") from None
            rows += [{"seed": seed, "method": method, "iteration": t} | row for row in measured]
            before = after
        write_csv(table, rows, ["seed", "method", "iteration", *preservation.COLUMNS])
    last = [row for row in rows if row["iteration"] == rows[-1]["iteration"] and row["mean"] is not None]
    shares = {
        quantity: [row["mean"] for row in last if row["quantity"] == quantity] for quantity in preservation.QUANTITIES
    }
    means = ", ".join(f"{quantity} {sum(values) / len(values):.3f}" for quantity, values in shares.items() if values)
    print(f"seed {seed} {method}: mean share explained in the last iteration: {means}, in {table}")


if __name__ == "__main__":
    with one_line_errors():
        main()
