"""Write one network of a study as a file to deploy, check the file against the network, print its size and latency.

python tools/export.py --seed 0 --method sap --iteration 5 --format onnx

Iteration 0 is the dense network. Channels that nothing reads are cut out, single weights that are pruned stay as zeros.
Everything runs on the CPU, so that the file opens on any machine. A tool beside the graph, not a stage of dvc.yaml.
"""

import argparse
import gzip
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "stages"))

import prunus  # noqa: F401 - imported first, because it sets up the process

# isort: split
import torch
from torch import nn

import exporting
from prunus import channels, masks, networks
from prunus.data.dataset import load
from prunus.evaluation.latency import latency
from prunus.networks import checkpoint
from prunus.run.device import open_device
from prunus.run.errors import StageError, one_line_errors
from prunus.study import layout
from prunus.study.params import for_stage
from prunus.training.accuracy import logits, share_correct

PARAMS = [
    "study.dataset",
    "study.network",
    "study.seeds",
    "study.methods",
    "study.iterations",
    "imposed",
    "network",
    "device.threads",
]

BATCHES = (1, 256)  # images a latency is measured on


def one_of(option, value, allowed, note=""):
    if value not in allowed:
        raise StageError(f"{option} {value}: the study has {', '.join(str(name) for name in allowed)}{note}")


def share_of_zeros(network):
    weights = masks.prunable(network).values()
    return 1 - sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)


def table(exported: nn.Module, compact: nn.Module, dense: exporting.Deployed, shape: tuple[int, int, int]) -> str:
    """Parameters and latency of the file's network beside the dense one, which torch runs."""
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (compact, dense)]
    rows = [("", "exported", "dense"), ("parameters", *(f"{size:,}" for size in sizes))]
    for batch in BATCHES:
        medians, _ = latency([exported, dense], torch.rand(batch, *shape))
        cells = (f"{1000 * median:.3g} ms" for median in medians)
        rows.append((f"latency, {batch} image{'s' if batch > 1 else ''}", *cells))
    return "\n".join(f"{name:<20}{ours:>14}{theirs:>14}" for name, ours, theirs in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--iteration", type=int, required=True, help="0: the dense network")
    parser.add_argument("--ratio-of", metavar="METHOD")
    parser.add_argument("--format", choices=exporting.SUFFIXES, required=True)
    parser.add_argument("--output", type=Path, metavar="PATH", help="default: a name in exports/ that says what it is")
    arguments = parser.parse_args()
    output = arguments.output and Path.cwd() / arguments.output  # the user's folder, before the next line leaves it
    os.chdir(layout.ROOT)
    seed, t, form = arguments.seed, arguments.iteration, arguments.format
    chain = layout.chain(arguments.method, arguments.ratio_of)
    exporting.check_installed(form)
    params = for_stage(PARAMS)
    one_of("--seed", seed, params.study.seeds)
    one_of(
        "--method", chain, [*params.study.methods, *params.imposed.chains], "; the dense network is iteration 0 of each"
    )
    one_of("--iteration", t, range(len(params.study.iterations) + 1))
    path = output or layout.export(params.study.dataset, params.study.network, seed, chain, t, exporting.SUFFIXES[form])

    device = open_device("cpu", params.device.threads)
    dataset = load(layout.DATASET, device, splits=("test",))
    test = dataset.splits["test"]
    dense, network = (networks.of_study(params.study.network, params.network, dataset.form) for _ in range(2))
    pretrain = layout.pretrain_command(seed)
    prune = layout.prune_command(seed, arguments.method, t, arguments.ratio_of)
    checkpoint.load_into(dense, layout.rewind_point(seed, "trained"), device, pretrain)
    source = layout.iteration(seed, chain, t) / layout.NETWORK
    alive = checkpoint.load_into(network, source, device, prune if t else pretrain)
    coupled = channels.groups(network, dataset.shape)
    removed = channels.share_removed(coupled, alive)
    compact = channels.compact(network, coupled, alive)
    expected = logits(network, dataset, "test")

    deployed = exporting.Deployed(compact, dataset.mean, dataset.std)
    built = (params.study.network, params.network.pretrained, params.network.side)
    about = exporting.describe(deployed, *built, dataset.shape, dataset.classes) | {
        "dataset": params.study.dataset,
        "seed": seed,
        "method": chain if t else "dense",
        "iteration": t,
        "density": masks.density(alive),
        "channels_removed": removed,
        "test_accuracy": share_correct(expected, test.labels),
    }
    exported, answers = exporting.save(path, form, deployed, about, test.images, expected, params.device.threads)

    print(table(exported, compact, exporting.Deployed(dense, dataset.mean, dataset.std), dataset.shape))
    content = path.read_bytes()
    print(
        f"{path}: {len(content):,} bytes, {len(gzip.compress(content)):,} with gzip; density {about['density']:.2%}, "
        f"{removed:.1%} of the channels removed, test accuracy {share_correct(answers, test.labels):.2%}, answers "
        f"within {(answers - expected).abs().max():.1e} of the network's on {len(answers):,} test images"
    )
    if zeros := share_of_zeros(compact):
        print(f"Zeros are stored: {zeros:.0%} of the weights in the file are zero, smaller only when compressed.")


if __name__ == "__main__":
    with one_line_errors():
        main()
