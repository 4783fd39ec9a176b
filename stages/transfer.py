"""Retrain one chain's networks on another dataset under their masks and measure test accuracy there.

python stages/transfer.py --dataset fashion_mnist --seed 0 --method sap

``--method dense`` is the baseline, the network that was never pruned. New layers are drawn from one random state per
seed, and all networks of a seed see the new images in the same order, so that they differ in their pruning only.
"""

import prunus.run.warm  # noqa: F401 - first: does not return where a warm process runs this script

# isort: split
import argparse
import os
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from prunus import masks, networks
from prunus.data.dataset import SPLITS, load
from prunus.masks import Masks
from prunus.networks import checkpoint
from prunus.run.device import open_device
from prunus.run.errors import one_line_errors
from prunus.run.files import write_csv
from prunus.run.record import Obeys, Recorder
from prunus.run.seeds import derive_seed
from prunus.study import layout
from prunus.study.params import for_stage
from prunus.training import arithmetic
from prunus.training.accuracy import accuracy
from prunus.training.loop import refuse_unanswered, train
from prunus.training.resuming import Resume
from prunus.training.stopping import FixedEpochs

PARAMS = [
    "study.dataset",
    "study.network",
    "study.iterations",
    "network",
    "training.augment",
    "training.sgd",
    "transfer.start",
    "transfer.epochs",
    "device.accelerator",
    "device.threads",
    "device.precision",
    "device.memory_format",
]


def move(state: dict[str, Tensor], alive: Masks, network: nn.Module) -> tuple[Masks, list[str]]:
    """Load the tensors of a ``state_dict`` that fit into ``network``; return its masks and the names that do not fit.

    With another number of classes the classifier does not fit: it stays as drawn, and its mask is all ones.
    """
    drawn = network.state_dict()
    misfits = [name for name, tensor in drawn.items() if tensor.shape != state[name].shape]
    network.load_state_dict(state | {name: drawn[name] for name in misfits})
    return {name: mask if name in misfits else alive[name] for name, mask in masks.ones(network).items()}, misfits


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--method", required=True)
    arguments = parser.parse_args()
    name, seed, method = arguments.dataset, arguments.seed, arguments.method
    params = for_stage(PARAMS)
    obeys = Obeys(Path(__file__), PARAMS, params)
    device = open_device(params.device.accelerator, params.device.threads)
    computed = arithmetic.choose(params.device.precision, params.device.memory_format, params.study.network)
    seeds = {purpose: derive_seed(seed, "transfer", name, purpose) for purpose in ("initialisation", "order")}
    pretrain = layout.pretrain_command(seed)
    chain = f"{params.study.dataset} to {name}, seed {seed} {method}"
    iterations = [0] if method == "dense" else list(range(1, len(params.study.iterations) + 1))
    record = layout.record("transfers", name, f"seed{seed}", method)
    with Recorder(record, device, params.device.threads, seeds, ["training.sgd.batch_size"], obeys=obeys) as recorder:
        recorder.measured |= asdict(computed)
        made_by = f"python stages/prepare_transfer.py --dataset {name}"
        dataset = load(layout.transfer_dataset(name), device, SPLITS, made_by)
        inputs = [layout.transfer_dataset(name), layout.rewind_point(seed, "initial")]
        inputs += [layout.iteration(seed, method, t) / layout.NETWORK for t in iterations]
        resume = Resume(recorder, inputs)
        if resume.finished:
            print(f"{chain}: goes on after {len(resume.finished)} of {len(iterations)} networks", flush=True)
        for t in iterations[len(resume.finished) :]:
            made_by = layout.prune_command(seed, method, t) if t else pretrain
            state, alive = checkpoint.load(layout.iteration(seed, method, t) / layout.NETWORK, device, made_by)
            if params.transfer.start == "initial":
                state, _ = checkpoint.load(layout.rewind_point(seed, "initial"), device, pretrain)
            torch.manual_seed(seeds["initialisation"])
            network = computed.place(networks.of_study(params.study.network, params.network, dataset.form), device)
            alive, misfits = move(state, alive, network)
            label = f"{chain} iteration {t}"
            if misfits:
                print(f"{label}: drawn afresh for {dataset.n_classes} classes: {', '.join(misfits)}")
            outcome = train(
                network,
                alive,
                dataset,
                params.training.sgd,
                params.training.augment,
                FixedEpochs(params.transfer.epochs),
                seed=seeds["order"],
                clock=recorder.clock,
                label=label,
                precision=computed.dtype,
                resume=resume,
            )
            refuse_unanswered(outcome, network, dataset, label)
            with recorder.clock.time("evaluation"):
                test_accuracy = accuracy(network, dataset, "test")
            resume.finish(
                {
                    "seed": seed,
                    "method": method,
                    "iteration": t,
                    "source_dataset": params.study.dataset,
                    "dataset": name,
                    "start": params.transfer.start,
                    "density": masks.density(alive),
                    "test_accuracy": test_accuracy,
                    "epochs": len(outcome.history),
                    "train_loss": outcome.history[-1]["train_loss"],
                }
            )
        write_csv(layout.transfer(name, seed, method), resume.finished)
    last = resume.finished[-1]
    print(
        f"{chain} iteration {last['iteration']}: test accuracy {last['test_accuracy']:.2%} "
        f"at density {last['density']:.2%}, "
        f"in {layout.transfer(name, seed, method)}"
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
