"""One iteration of a chain: load the network before it, score, prune, rewind, retrain until the stop rule says so.

python stages/prune_iteration.py --seed 0 --method incop_if --iteration 3
"""

import argparse
import os

from prunus import checkpoint, layout, masks, methods, networks
from prunus.datasets import load
from prunus.params import for_stage
from prunus.recipe import Candidates, Retraining, prunable_weights
from prunus.runtime import (
    Recorder,
    StageError,
    derive_seed,
    one_line_errors,
    open_device,
    read_json,
    write_csv,
    write_json,
)
from prunus.training import batches_per_epoch, train

PARAMS = [
    "study.network",
    "network",
    "training.augment",
    "training.sgd",
    "device.accelerator",
    "device.threads",
    "methods.{method}",
]


def pruned(recipe, before, dense, alive, label):
    """The next masks; ``before`` and ``dense`` are prunable weights. Raises ``StageError`` where nothing is left."""
    kept = recipe.masks(Candidates(before, dense), alive)
    for name, mask in kept.items():
        if not mask.any():
            raise StageError(f"{label}: layer {name} lost all its weights; prune less (amount, scope) or stop earlier")
    return kept


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--iteration", type=int, required=True)
    arguments = parser.parse_args()
    seed, method, t = arguments.seed, arguments.method, arguments.iteration
    params = for_stage([key.format(method=method) for key in PARAMS])
    settings = vars(params.methods)[method]
    recipe = methods.recipe(method, settings)
    device = open_device(params.device.accelerator, params.device.threads)
    seeds = {"order": derive_seed(seed, method, t, "order")}
    folder, label = layout.iteration(seed, method, t), f"seed {seed} {method} iteration {t}"
    pretrain = f"python stages/pretrain.py --seed {seed}"
    earlier = f"python stages/prune_iteration.py --seed {seed} --method {method} --iteration {t - 1}"
    with Recorder(layout.iteration_record(seed, method, t), device, params.device.threads, seeds) as recorder:
        dataset = load(layout.DATASET, device)
        network = networks.build(
            params.study.network, *dataset.form, pretrained=params.network.pretrained, download=False
        ).to(device)
        dense, _ = checkpoint.load(layout.rewind_point(seed, "trained"), device, pretrain)
        before = layout.iteration(seed, method, t - 1) / layout.NETWORK
        alive = checkpoint.load_into(network, before, device, pretrain if t == 1 else earlier)
        kept = pruned(recipe, prunable_weights(network), prunable_weights(network, dense), alive, label)
        checkpoint.load_into(network, layout.rewind_point(seed, recipe.rewind), device, pretrain)
        reference = read_json(layout.reference_flow(seed), f"python stages/reference_flow.py --seed {seed}")
        subset = dataset.sample("train", reference["samples"], reference["subset_seed"])
        stop = recipe.stop(
            Retraining(
                masks=kept,
                batches=batches_per_epoch(len(dataset.splits["train"].labels), params.training.sgd.batch_size),
                reference=reference,
                flow_images=dataset.normalise(subset.images),
                flow_labels=subset.labels,
                test=lambda: load(layout.DATASET, device, splits=("test",)),
            )
        )
        outcome = train(
            network,
            kept,
            dataset,
            params.training.sgd,
            params.training.augment,
            stop,
            seed=seeds["order"],
            clock=recorder.clock,
            label=label,
        )
        checkpoint.save(folder / layout.NETWORK, network.state_dict(), kept)
        write_csv(folder / layout.HISTORY, outcome.history)
        metrics = {
            "seed": seed,
            "method": method,
            "iteration": t,
            "settings": settings.model_dump(),
            "density": masks.density(kept),
            "alive": masks.alive_count(kept),
            "epochs": len(outcome.history),
            "stopped_by": outcome.reason,
            "epsilon": stop.epsilon,
            **outcome.history[-1],
        }
        write_json(folder / layout.METRICS_NAME, metrics)
    print(
        f"{label}: density {metrics['density']:.2%}, {metrics['epochs']} epochs (stopped by {outcome.reason}), "
        f"validation accuracy {metrics['validation_accuracy']:.2%}, in {folder}"
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
