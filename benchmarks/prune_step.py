"""One prune step, SAP's at three scopes and global magnitude, against the authors' way and torch.nn.utils.prune.

python benchmarks/prune_step.py

The weights of a newly drawn resnet18 (11.2 million), all alive and half alive, at p = 0.5, q = 1. SAP's peers:

* the authors' round: for their log they evaluate the PQ index on a grid of 10 x 11 pairs (p, q), two float32 norms
  each, and the Gini index by a full sort, at all three scopes; then they sort the scope's magnitudes and cut. One run.
* the same with the grid and the Gini index of the scope alone.
* the one index needed and a full sort: what remains when nothing is computed for the log.

All three are written plainly here, whole matrices at a time. Global magnitude at 20 % meets
torch.nn.utils.prune.global_unstructured, on copies of the network made beforehand. The masks must be the peers': those
of global_unstructured exactly, those of the sort but for ties once its norms are float64. All on the CPU.
"""

import copy
import math
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from harness import Bench, main, peak_bytes
from prunus import masks as masking
from prunus import networks
from prunus.masks import Masks, magnitude_masks
from prunus.pruning.settings import FractionSettings, PQSettings
from prunus.sparsity import PIECE

P, Q, BETA = 0.5, 1.0, 0.9
GRID = [(p / 10, q / 10) for p in range(1, 11) for q in range(10, 21)]
SCOPES = ("neuron", "layer", "global")
TIES = 1e-5  # share of masks in which the plain cut, which keeps all of several equal magnitudes, may differ
FRACTION = 0.2


def rows(tensors: dict[str, Tensor], scope: str) -> list[Tensor]:
    """The groups of a scope as the rows of matrices."""
    if scope == "global":
        return [torch.cat([tensor.flatten() for tensor in tensors.values()])[None]]
    return [tensor.flatten(1) if scope == "neuron" else tensor.flatten()[None] for tensor in tensors.values()]


def plain_index(alive: Tensor, mask: Tensor, p: float, q: float) -> Tensor:
    """The PQ index of each row of a matrix whose pruned entries are zero."""
    size = mask.sum(1)
    return 1 - size ** (1 / q - 1 / p) * torch.linalg.norm(alive, p, dim=1) / torch.linalg.norm(alive, q, dim=1)


def plain_gini(alive: Tensor, mask: Tensor) -> Tensor:
    """The Gini index of each row, by a full sort; pruned entries are zeros in front that count for nothing."""
    size = mask.sum(1, keepdim=True)
    ordered = alive.abs().sort(dim=1).values
    ranks = torch.arange(1, alive.shape[1] + 1) - (alive.shape[1] - size)
    return ((2 * ranks - size - 1) * ordered).sum(1) / (size[:, 0] * ordered.sum(1))


def plain_log(weights: dict[str, Tensor], masks: Masks, scope: str, pairs: list[tuple[float, float]]) -> list:
    """What the authors' code computes at one scope for its log."""
    values = []
    for weight, mask in zip(rows(weights, scope), rows(masks, scope), strict=True):
        alive = weight * mask
        values.append(([plain_index(alive, mask, p, q) for p, q in pairs], plain_gini(alive, mask)))
    return values


def plain_masks(weights: dict[str, Tensor], masks: Masks, scope: str, dtype: torch.dtype = torch.float32) -> Masks:
    """SAP's masks by the one index needed, from norms of ``dtype``, and a full sort."""
    kept = []
    for weight, mask in zip(rows(weights, scope), rows(masks, scope), strict=True):
        size = mask.sum(1)
        retained = size * (1 - plain_index((weight * mask).to(dtype), mask, P, Q)) ** (P * Q / (Q - P))
        count = (size * (1 - retained / size).clamp(0, BETA)).floor().long()
        magnitudes = weight.abs().masked_fill(~mask, torch.inf)
        pivot = magnitudes.sort(dim=1).values.gather(1, count[:, None])
        kept.append((mask & (magnitudes >= pivot)).flatten())
    flat = torch.cat(kept).split([mask.numel() for mask in masks.values()])
    return {name: part.view_as(masks[name]) for name, part in zip(masks, flat, strict=True)}


def difference(masks: Masks, others: Masks) -> float:
    """Share of the entries in which two sets of masks differ."""
    return sum(int((masks[name] != others[name]).sum()) for name in masks) / sum(m.numel() for m in masks.values())


def sap(bench: Bench, weights: dict[str, Tensor], masks: Masks, state: str) -> None:
    log = f"authors' log, {state}"
    pairs = GRID[::37] if bench.quick else GRID
    calls = {scope: lambda scope=scope: plain_log(weights, masks, scope, pairs) for scope in SCOPES}
    bench.compare(log, calls, runs=1, warmup=0)
    logs = {scope: bench.median(log, scope) for scope in SCOPES}
    for scope in SCOPES:
        case = f"SAP mask, {scope}, {state}"
        amount = PQSettings(rewind="initial", scope=scope, index="pq", p=P, q=Q, eta=0.0, gamma=1.0, beta=BETA).amount

        def prunus(scope=scope, amount=amount) -> Masks:
            return magnitude_masks(weights, masks, scope, amount)

        masked = bench.compare(
            case, {"prunus": prunus, "one index, full sort": lambda scope=scope: plain_masks(weights, masks, scope)}, 5
        )["prunus"]
        if difference(masked, plain_masks(weights, masks, scope, torch.float64)) > TIES:
            raise RuntimeError(f"{case}: not the masks of the plain form")
        sort = bench.median(case, "one index, full sort")
        bench.record(case, "authors' log of this scope, full sort", [logs[scope] + sort])
        bench.record(case, "authors' whole round", [sum(logs.values()) + sort])
        bench.ratio(case, "authors' whole round", "prunus", at_least=300)
        bench.ratio(case, "authors' log of this scope, full sort", "prunus")
        bench.ratio(case, "one index, full sort", "prunus")


def memory(bench: Bench, weights: dict[str, Tensor], masks: Masks, state: str) -> None:
    """The largest of ten peaks, in copies of the weights: how much is fresh depends on what the allocator holds."""
    size = sum(weight.nbytes for weight in weights.values())
    for scope in SCOPES:
        case = f"SAP mask, {scope}, {state}"
        amount = PQSettings(rewind="initial", scope=scope, index="pq", p=P, q=Q, eta=0.0, gamma=1.0, beta=BETA).amount
        peaks = [peak_bytes(partial(magnitude_masks, weights, masks, scope, amount)) / size for _ in range(10)]
        bench.judge(case, "prunus: largest peak memory / weights", max(peaks), "x", at_most=3)


def least(bench: Bench, weights: dict[str, Tensor], masks: Masks, state: str) -> None:
    """SAP's global masks against what no form can do without: the two power means in float64 and one selection.

    The selection reorders a copy of the magnitudes that was made beforehand, and nothing turns its limit into masks.
    """
    case, runs = f"SAP mask, global, {state}, least work", 11
    amount = PQSettings(rewind="initial", scope="global", index="pq", p=P, q=Q, eta=0.0, gamma=1.0, beta=BETA).amount
    alive = torch.cat([weight[masks[name]] for name, weight in weights.items()])
    count, copies = amount(alive), [alive.abs().numpy() for _ in range(runs + 1)]

    def power_means() -> list[float]:
        sums = []
        for piece in alive.split(PIECE):
            magnitudes = piece.abs().double()
            sums.append([np.sqrt(magnitudes.numpy()).sum(), magnitudes.sum().item()])
        return [math.fsum(values) / len(alive) for values in zip(*sums, strict=True)]

    def selection_and_means() -> None:
        power_means()
        copies.pop().partition(count - 1)

    variants = {
        "prunus": lambda: magnitude_masks(weights, masks, "global", amount),
        "selection and power means": selection_and_means,
    }
    bench.compare(case, variants, runs)
    bench.ratio(case, "prunus", "selection and power means", at_most=1.5)


def magnitude(bench: Bench, network: nn.Module, weights: dict[str, Tensor]) -> None:
    case, runs = f"global magnitude at {FRACTION:.0%}", 5
    copies = [copy.deepcopy(network) for _ in range(runs + 1)]
    amount = FractionSettings(rewind="initial", scope="global", fraction=FRACTION).amount
    masks = masking.ones(network)

    def torch_prune() -> nn.Module:
        pruned = copies.pop()
        layers = [(pruned.get_submodule(name.rpartition(".")[0]), "weight") for name in masks]
        prune.global_unstructured(layers, prune.L1Unstructured, amount=FRACTION)
        return pruned

    variants = {
        "prunus": lambda: magnitude_masks(weights, masks, "global", amount),
        "torch.nn.utils.prune": torch_prune,
    }
    results = bench.compare(case, variants, runs)
    buffers = dict(results["torch.nn.utils.prune"].named_buffers())
    if any(not torch.equal(buffers[f"{name}_mask"].bool(), mask) for name, mask in results["prunus"].items()):
        raise RuntimeError(f"{case}: not the masks of torch.nn.utils.prune")
    bench.ratio(case, "torch.nn.utils.prune", "prunus", at_least=5)


def run(bench: Bench) -> None:
    torch.manual_seed(0)
    network = networks.build("cnn" if bench.quick else "resnet18", 3, 32, 10)
    weights = {name: weight.detach() for name, weight in masking.prunable(network).items()}
    masks = masking.ones(network)
    magnitude(bench, network, weights)
    least(bench, weights, masks, "all alive")
    memory(bench, weights, masks, "all alive")
    sap(bench, weights, masks, "all alive")
    half = {name: torch.rand_like(weight) < 0.5 for name, weight in weights.items()}
    sparse = {name: weight * half[name] for name, weight in weights.items()}
    least(bench, sparse, half, "half alive")
    memory(bench, sparse, half, "half alive")
    sap(bench, sparse, half, "half alive")


if __name__ == "__main__":
    main("prune_step", run, __doc__.splitlines()[0])
