"""Evaluate one chain: per iteration test accuracy, density, channels removed, and the cost of the network dense,
masked and compacted; per layer the sparsity, per channel group the channels left.

Accuracy and sparsity are also measured right after pruning, before rewinding and retraining: on the weights of the
iteration before, with what the method changed as it pruned (ThiNet's scales), under this iteration's masks.
Each network sees the test images once. evaluate_dense evaluates the dense network.
If a failure cut the chain short, the iterations before it are evaluated.

python stages/evaluate.py --seed 0 --method sap
"""

import prunus.run.warm  # noqa: F401 - first: does not return where a warm process runs this script

# isort: split
import argparse
import copy
import json
import os
from pathlib import Path

import torch

from prunus import channels, networks
from prunus.evaluation.images import load_test
from prunus.evaluation.latency import latency
from prunus.evaluation.layers import LAYER_COLUMNS, layer_table
from prunus.evaluation.macs import multiply_accumulates
from prunus.networks import checkpoint
from prunus.run.device import open_device
from prunus.run.errors import StageError, one_line_errors
from prunus.run.files import read_json, read_rows, write_csv
from prunus.run.record import Obeys, Recorder
from prunus.study import layout
from prunus.study.params import for_stage
from prunus.training.accuracy import BATCH, accuracy, answered, is_constant, logits, share_correct

PARAMS = [
    "study.dataset",
    "study.network",
    "study.iterations",
    "network",
    "data.split_seed",
    "evaluation",
    "device.accelerator",
    "device.threads",
]

BATCHES = (1, 256)  # images a latency is measured on
CHECKED_IMAGES = 256
INDICES = ("pq_index", "gini_index")
# Keys read from an iteration's metrics.json and history.csv.
METRICS = {
    "density": float,
    "alive": int,
    "validation_accuracy": float,
    "epochs": int,
    "stopped_by": str,
    "distance": float | None,
    "epsilon": float | None,
    "settings": {"rewind": str},
}
HISTORY = {"epoch": int, "train_loss": float, "validation_accuracy": float, "distance": float | None}
# Keys read from the dense network's evaluation: what was evaluated, and the results.
DENSE_STUDY = {"dataset": str, "network": str, "test_images": int}
DENSE_RESULTS = {"test_accuracy": float, "macs": int}
CHANNEL_COLUMNS = ["seed", "method", "iteration", "group", "channels", "alive"]


def parameter_count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def evaluated_dense(seed, dataset, network, images):
    """The metrics and layers that evaluate_dense wrote for the seed; ``StageError`` if they are of another study."""
    folder, command = layout.evaluation(seed, "dense"), layout.evaluate_command(seed, "dense")
    metrics = read_json(folder / layout.METRICS_NAME, command, DENSE_STUDY | DENSE_RESULTS)
    if [metrics[key] for key in DENSE_STUDY] != [dataset, network, images]:
        evaluated = f"{metrics['network']} on {metrics['test_images']:,} images of {metrics['dataset']}"
        study = f"the study is {network} on {images:,} of {dataset}"
        raise StageError(f"{folder / layout.METRICS_NAME} is of {evaluated}, {study}; `{command}` makes it again")
    return metrics, read_rows(folder / "layers.csv", command, LAYER_COLUMNS)


def latencies_of(dense, compact, shape, device, budget):
    """A row per batch size: median seconds of the dense and of the compacted network."""
    for batch in BATCHES:
        images = torch.zeros(batch, *shape, device=device)
        (dense_seconds, compact_seconds), repeats = latency([dense, compact], images, budget)
        yield {
            "batch": batch,
            "dense_seconds": dense_seconds,
            "compact_seconds": compact_seconds,
            "repeats": repeats,
        }


def check(compact, answers, dataset, label):
    """Raise ``StageError`` unless ``compact`` gives the masked network's ``answers`` to the first test images;
    otherwise two different networks would be compared."""
    compacted = logits(compact, dataset, "test", BATCH, CHECKED_IMAGES)
    masked = answers[:CHECKED_IMAGES]
    if not (finite := answered(masked)).any():
        return  # answers that are not finite cannot be compared
    error = (masked - compacted)[finite].abs().max().item()
    if not error <= 1e-5 * max(1.0, masked[finite].abs().max().item()):
        raise StageError(f"{label}: the compacted network answers differently (by {error:.1e}); please report this")


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--ratio-of", metavar="METHOD")
    arguments = parser.parse_args()
    seed, method = arguments.seed, layout.chain(arguments.method, arguments.ratio_of)
    params = for_stage(PARAMS)
    obeys = Obeys(Path(__file__), PARAMS, params)
    device = open_device(params.device.accelerator, params.device.threads)
    folder, pretrain = layout.evaluation(seed, method), layout.pretrain_command(seed)
    rows, layers, groups, histories, latencies = [], [], [], [], []
    iterations = len(params.study.iterations)
    missing = ""
    with Recorder(layout.evaluation_record(seed, method), device, params.device.threads, obeys=obeys) as recorder:
        dataset = load_test(device, params.evaluation.fraction, params.data.split_seed)
        labels = dataset.splits["test"].labels
        dense_metrics, dense_layers = evaluated_dense(seed, params.study.dataset, params.study.network, len(labels))
        network = networks.of_study(params.study.network, params.network, dataset.form).to(device)
        dense, pruned = copy.deepcopy(network), copy.deepcopy(network)
        coupled = channels.groups(network, dataset.shape)
        total = sum(group.size for group in coupled)
        checkpoint.load_into(dense, layout.rewind_point(seed, "trained"), device, pretrain)
        network.load_state_dict(dense.state_dict())
        for row in dense_layers:
            keys = {"seed": seed, "method": method, "iteration": 0}
            layers.append(keys | row | {f"pruned_{index}": row[index] for index in INDICES})
        for t in range(1, iterations + 1):
            source, label = layout.iteration(seed, method, t), f"seed {seed} {method} iteration {t}"
            command = layout.prune_command(seed, arguments.method, t, arguments.ratio_of)
            if t > 1 and not (source / layout.NETWORK).exists():
                missing = f"; iteration {t} of {iterations} is missing, `{command}` makes it"
                break
            pruned.load_state_dict(network.state_dict())
            alive = checkpoint.load_into(network, source / layout.NETWORK, device, command)
            checkpoint.load_pruned(pruned, source / layout.PRUNED, alive, device, command)
            metrics = read_json(source / layout.METRICS_NAME, command, METRICS)
            keys = {"seed": seed, "method": method, "iteration": t}
            histories += [keys | row for row in read_rows(source / layout.HISTORY, command, HISTORY)]
            macs = multiply_accumulates(network, dataset.shape, alive)
            with recorder.clock.time("evaluation"):
                answers = logits(network, dataset, "test", BATCH)
                pruned_test_accuracy = accuracy(pruned, dataset, "test", BATCH)
            rows_before = layer_table(pruned, alive, macs)
            for row, before in zip(layer_table(network, alive, macs), rows_before, strict=True):
                layers.append(keys | row | {f"pruned_{index}": before[index] for index in INDICES})
            left = {group: int(mask.sum()) for group, mask in channels.alive(coupled, alive).items()}
            groups += [keys | {"group": g.name, "channels": g.size, "alive": left[g.name]} for g in coupled]
            compact = channels.compact(network, coupled, alive)
            if removed := channels.share_removed(coupled, alive):  # otherwise compact is the masked network
                check(compact, answers, dataset, label)
                timed = latencies_of(dense, compact, dataset.shape, device, params.evaluation.latency_seconds)
                with recorder.clock.time("latency"):
                    latencies += [{"iteration": t} | row for row in timed]
            rows.append(
                {
                    "dataset": params.study.dataset,
                    "network": params.study.network,
                    **keys,
                    "density": metrics["density"],
                    "alive": metrics["alive"],
                    "prunable": sum(mask.numel() for mask in alive.values()),
                    "channels": total,
                    "channels_removed": removed,
                    "test_accuracy": share_correct(answers, labels),
                    "pruned_test_accuracy": pruned_test_accuracy,
                    "validation_accuracy": metrics["validation_accuracy"],
                    "dense_test_accuracy": dense_metrics["test_accuracy"],
                    "macs": sum(macs.values()),
                    "dense_macs": dense_metrics["macs"],
                    "compact_macs": sum(multiply_accumulates(compact, dataset.shape).values()),
                    "parameters": parameter_count(dense),
                    "compact_parameters": parameter_count(compact),
                    "bytes": (source / layout.NETWORK).stat().st_size,
                    "untrainable": int(is_constant(answers)),
                    "epochs": metrics["epochs"],
                    "stopped_by": metrics["stopped_by"],
                    "distance": metrics["distance"],
                    "epsilon": metrics["epsilon"],
                    "rewind": metrics["settings"]["rewind"],
                    "recipe": json.dumps(metrics["settings"], sort_keys=True),
                }
            )
        recorder.measured |= {"latency": latencies, "test_images": len(labels)}
        for table, content in {"iterations": rows, "layers": layers, "history": histories}.items():
            write_csv(folder / f"{table}.csv", content)
        write_csv(folder / "channels.csv", groups, CHANNEL_COLUMNS)
    last = rows[-1]
    print(
        f"seed {seed} {method}: test accuracy {last['test_accuracy']:.2%} on {len(labels):,} images "
        f"at density {last['density']:.2%}, {last['channels_removed']:.1%} of the channels removed "
        f"(dense {dense_metrics['test_accuracy']:.2%}), in {folder}{missing}"
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
