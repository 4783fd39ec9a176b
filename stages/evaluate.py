"""Evaluate one chain: per iteration test accuracy, density, channels removed, and what the network costs when dense,
masked and compacted; per layer the sparsity, per channel group the channels left. Accuracy and sparsity are also those
of the network just pruned, before rewinding and retraining: the weights of the iteration before, with what the method
changed of them as it pruned (ThiNet's scales), under the masks of this one.
Of a chain that a failure cut short, the iterations up to there.

python stages/evaluate.py --seed 0 --method sap
"""

import argparse
import os

import prunus  # noqa: F401 - first: what it sets up counts from here on

# isort: split
import torch

from prunus import channels, checkpoint, layout, networks
from prunus.datasets import load
from prunus.evaluation import accuracy, answered, is_constant, layer_table, logits, share_correct
from prunus.latency import latency
from prunus.macs import multiply_accumulates
from prunus.params import for_stage
from prunus.runtime import Recorder, StageError, one_line_errors, open_device, read_json, read_rows, write_csv

PARAMS = ["study.dataset", "study.network", "study.iterations", "network", "device.accelerator", "device.threads"]

BATCHES = (1, 256)  # images a latency is measured on
CHECKED_IMAGES = 256
INDICES = ("pq_index", "gini_index")
# What is read of an iteration's metrics.json and history.csv.
METRICS = {"density": float, "alive": int, "validation_accuracy": float, "epochs": int}
METRICS |= {"stopped_by": str, "distance": float | None, "epsilon": float | None, "settings": {"rewind": str}}
HISTORY = {"epoch": int, "train_loss": float, "validation_accuracy": float, "distance": float | None}
CHANNEL_COLUMNS = ["seed", "method", "iteration", "group", "channels", "alive"]


def parameter_count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def latencies_of(dense, compact, shape, device):
    """A row per batch size: median seconds of the dense and of the compacted network."""
    for batch in BATCHES:
        (full, small), repeats = latency([dense, compact], torch.zeros(batch, *shape, device=device))
        yield {"batch": batch, "dense_seconds": full, "compact_seconds": small, "repeats": repeats}


def checked(compact, network, dataset, label):
    """``compact`` if it answers what the masked ``network`` does; otherwise the comparison would be of two networks."""
    images = dataset.normalise(dataset.splits["test"].images[:CHECKED_IMAGES])
    with torch.no_grad():
        masked, smaller = network.eval()(images), compact.eval()(images)
    if not (shown := answered(masked)).any():
        return compact  # of answers that are no numbers none is the same
    error = (masked - smaller)[shown].abs().max().item()
    if not error <= 1e-5 * max(1.0, masked[shown].abs().max().item()):
        raise StageError(f"{label}: the compacted network answers differently (by {error:.1e}); please report this")
    return compact


def main() -> None:
    os.chdir(layout.ROOT)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--ratio-of", metavar="METHOD")
    arguments = parser.parse_args()
    seed, method = arguments.seed, layout.chain(arguments.method, arguments.ratio_of)
    params = for_stage(PARAMS)
    device = open_device(params.device.accelerator, params.device.threads)
    folder, name = layout.evaluation(seed, method), f"seed{seed}"
    rows, layers, groups, histories, latencies = [], [], [], [], []
    listed, missing = len(params.study.iterations), ""
    with Recorder(layout.record(name, f"{method}/evaluate"), device, params.device.threads) as recorder:
        dataset = load(layout.DATASET, device, splits=("test",))
        built = (params.study.network, params.network, dataset.form)
        dense, pruned, network = (networks.of_study(*built).to(device) for _ in range(3))
        coupled = channels.groups(network, dataset.shape)
        total = sum(group.size for group in coupled)
        for t in range(listed + 1):
            source, label = layout.iteration(seed, method, t), f"seed {seed} {method} iteration {t}"
            command = layout.prune_command(seed, arguments.method, t, arguments.ratio_of)
            if t > 1 and not (source / layout.NETWORK).exists():
                missing = f"; iteration {t} of {listed} is missing, `{command}` makes it"
                break
            pruned.load_state_dict(network.state_dict())
            made_by = command if t else f"python stages/pretrain.py --seed {seed}"
            alive = checkpoint.load_into(network, source / layout.NETWORK, device, made_by)
            metrics = read_json(source / layout.METRICS_NAME, made_by, METRICS if t else {})
            macs = multiply_accumulates(network, dataset.shape, alive)
            with recorder.clock.time("evaluation"):
                answers = logits(network, dataset, "test")
            test_accuracy = share_correct(answers, dataset.splits["test"].labels)
            keys = {"seed": seed, "method": method, "iteration": t}
            if t:
                checkpoint.load_pruned(pruned, source / layout.PRUNED, alive, device, made_by)
            rows_before = layer_table(pruned if t else network, alive, macs)
            for row, before in zip(layer_table(network, alive, macs), rows_before, strict=True):
                layers.append(keys | row | {f"pruned_{index}": before[index] for index in INDICES})
            if t == 0:
                dense.load_state_dict(network.state_dict())
                dense_accuracy, dense_macs = test_accuracy, sum(macs.values())
                continue
            histories += [keys | row for row in read_rows(source / layout.HISTORY, made_by, HISTORY)]
            left = {group: int(mask.sum()) for group, mask in channels.alive(coupled, alive).items()}
            groups += [keys | {"group": g.name, "channels": g.size, "alive": left[g.name]} for g in coupled]
            compact = checked(channels.compact(network, coupled, alive), network, dataset, label)
            removed = channels.share_removed(coupled, alive)
            if removed:
                with recorder.clock.time("latency"):
                    latencies += [{"iteration": t} | row for row in latencies_of(dense, compact, dataset.shape, device)]
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
                    "test_accuracy": test_accuracy,
                    "pruned_test_accuracy": accuracy(pruned, dataset, "test"),
                    "validation_accuracy": metrics["validation_accuracy"],
                    "dense_test_accuracy": dense_accuracy,
                    "macs": sum(macs.values()),
                    "dense_macs": dense_macs,
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
                    "recipe": ", ".join(f"{key} {value}" for key, value in metrics["settings"].items()),
                }
            )
        recorder.measured["latency"] = latencies
        for table, content in {"iterations": rows, "layers": layers, "history": histories}.items():
            write_csv(folder / f"{table}.csv", content)
        write_csv(folder / "channels.csv", groups, CHANNEL_COLUMNS)
    last = rows[-1]
    print(
        f"seed {seed} {method}: test accuracy {last['test_accuracy']:.2%} at density {last['density']:.2%}, "
        f"{last['channels_removed']:.1%} of the channels removed (dense {dense_accuracy:.2%}), in {folder}{missing}"
    )


if __name__ == "__main__":
    with one_line_errors():
        main()
