"""Train the dense network of one seed, keeping the weights as drawn, after the warm-up steps, and trained.

python stages/pretrain.py --seed 0
"""

import prunus.run.warm  # noqa: F401 - first: does not return where a warm process runs this script

# isort: split
import argparse
import os
from dataclasses import asdict
from pathlib import Path

import torch

from prunus import masks, networks
from prunus.data.batches import batches_per_epoch
from prunus.data.dataset import load
from prunus.flow import stale_gradient_flow
from prunus.networks import checkpoint
from prunus.run.device import open_device
from prunus.run.errors import StageError, one_line_errors
from prunus.run.files import write_csv, write_json
from prunus.run.record import Obeys, Recorder
from prunus.run.seeds import derive_seed
from prunus.study import layout
from prunus.study.params import for_stage
from prunus.training import arithmetic
from prunus.training.loop import train
from prunus.training.resuming import Resume
from prunus.training.stopping import FixedEpochs

PARAMS = [
    "study.network",
    "network",
    "training",
    "device.accelerator",
    "device.threads",
    "device.precision",
    "device.memory_format",
]


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    seed = parser.parse_args().seed
    params = for_stage(PARAMS)
    obeys = Obeys(Path(__file__), PARAMS, params)
    device = open_device(params.device.accelerator, params.device.threads)
    computed = arithmetic.choose(params.device.precision, params.device.memory_format, params.study.network)
    seeds = {purpose: derive_seed(seed, "dense", purpose) for purpose in ("initialisation", "order")}
    folder = layout.dense(seed)
    record = layout.iteration_record(seed, "dense", 0)
    eased_by = ["training.sgd.batch_size"]
    with Recorder(record, device, params.device.threads, seeds, eased_by, obeys=obeys) as recorder:
        recorder.measured |= asdict(computed)
        dataset = load(layout.DATASET, device)
        steps = batches_per_epoch(len(dataset.splits["train"].labels), params.training.sgd.batch_size)
        if params.training.warmup_steps > steps * params.training.epochs:
            raise StageError(
                f"training.warmup_steps: {params.training.warmup_steps} is more than the "
                f"{steps * params.training.epochs} steps of the whole dense training"
            )
        torch.manual_seed(seeds["initialisation"])
        network = networks.of_study(params.study.network, params.network, dataset.form, download=True)
        network = computed.place(network, device)
        full = masks.ones(network)
        checkpoint.save(layout.rewind_point(seed, "initial"), network.state_dict())
        outcome = train(
            network,
            full,
            dataset,
            params.training.sgd,
            params.training.augment,
            FixedEpochs(params.training.epochs),
            seed=seeds["order"],
            clock=recorder.clock,
            label=f"seed {seed} dense",
            precision=computed.dtype,
            keep_after=params.training.warmup_steps,
            resume=Resume(recorder, [layout.DATASET]),
        )
        checkpoint.save(layout.rewind_point(seed, "warmup"), outcome.kept)
        checkpoint.save(layout.rewind_point(seed, "trained"), network.state_dict(), full)
        write_csv(folder / layout.HISTORY, outcome.history)
        write_json(
            folder / layout.METRICS_NAME,
            {
                "seed": seed,
                "iteration": 0,
                "density": 1.0,
                "epochs": len(outcome.history),
                **outcome.history[-1],
                "last_batch_gradient": {
                    name: values.tolist() for name, values in stale_gradient_flow(network, steps).items()
                },
            },
        )
    epochs, accuracy = len(outcome.history), outcome.history[-1]["validation_accuracy"]
    unanswered = f", {outcome.unanswered} images with answers that are not finite" if outcome.unanswered else ""
    print(f"seed {seed} dense: {epochs} epochs, validation accuracy {accuracy:.2%}{unanswered}, in {folder}")


if __name__ == "__main__":
    with one_line_errors():
        main()
