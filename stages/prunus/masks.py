"""Weight masks: which parameters are prunable, which entries go, and how pruned ones stay at zero.

Masks are dictionaries from parameter name to bool tensor, True = alive. A parameter is prunable if the last component
of its name contains "weight" and it has more than one dimension: convolutions and linear layers, the classifier
included, never biases or batch norm (SAP's reference code, and InCoP's after it).
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from prunus.run.errors import StageError
from prunus.sparsity import PIECE, Amount, alive_per_row, all_alive

Masks = dict[str, Tensor]


def prunable(network: nn.Module) -> dict[str, nn.Parameter]:
    """The prunable parameters by name, in the network's order."""
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if "weight" in name.rpartition(".")[2] and parameter.dim() > 1
    }


def ones(network: nn.Module) -> Masks:
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(network).items()}


def apply(network: nn.Module, masks: Masks) -> None:
    """Set the pruned weights of ``network`` to zero, in place."""
    with torch.no_grad():
        for name, weight in prunable(network).items():
            weight.mul_(masks[name])


def alive_count(masks: Masks) -> int:
    return sum(int(mask.count_nonzero()) for mask in masks.values())


def density(masks: Masks) -> float:
    """Fraction of prunable weights that is alive."""
    return alive_count(masks) / sum(mask.numel() for mask in masks.values())


def collapsed(masks: Masks) -> list[str]:
    """The layers that have no weight left. Unless a shortcut leads around such a layer, no training can repair it."""
    return [name.removesuffix(".weight") for name, mask in masks.items() if not mask.any()]


def _groups(tensors: Iterable[Tensor], scope: str) -> list[Sequence[Tensor]]:
    """The groups a scope looks at, as rows: each entry holds matrices [n, d_i] side by side, n groups.

    The matrices are views of few enough entries that what is computed from one stays in a processor's cache.
    """
    if scope == "global":
        return [[piece for tensor in tensors for piece in tensor.reshape(1, -1).split(PIECE, 1)]]
    if scope == "layer":
        return [tensor.reshape(1, -1).split(PIECE, 1) for tensor in tensors]
    if scope == "neuron":
        matrices = [tensor.flatten(1) for tensor in tensors]
        return [[rows] for matrix in matrices for rows in matrix.split(max(1, PIECE // matrix.shape[1]))]
    raise ValueError(f"scope: {scope!r}; allowed: neuron, layer, global")


def _alive(values: Tensor, mask: Tensor) -> Tensor:
    """``values[mask]``; on a CPU by numpy, which takes a fifth of the time."""
    if all_alive(mask):
        return values.flatten()
    if values.device.type != "cpu":
        return values[mask]
    return torch.from_numpy(np.compress(mask.flatten().numpy(), values.detach().flatten().numpy()))


def _counts(amount: Amount, weights: Sequence[Tensor], masks: Sequence[Tensor]) -> list[int]:
    """How many entries of each row have to go."""
    if hasattr(amount, "per_row"):
        return amount.per_row(weights, masks)
    alive = torch.cat([_alive(weight, mask) for weight, mask in zip(weights, masks, strict=True)])
    return [min(amount(row), len(row)) for row in alive.split(alive_per_row(masks))]


def asked(weights: dict[str, Tensor], masks: Masks, scope: str, amount: Amount) -> int:
    """How many entries ``prune`` would take from all groups without ``stay``."""
    groups = (_groups([tensors[name] for name in masks], scope) for tensors in (weights, masks))
    return sum(sum(_counts(amount, weight, mask)) for weight, mask in zip(*groups, strict=True))


def _limit(row: Tensor, count: int) -> tuple[float, int]:
    """The ``count``-th lowest of ``row`` and how many of its equals are among the ``count`` lowest; reorders ``row``.

    On a CPU by numpy, whose partition takes a third of the time of torch's kthvalue.
    """
    if count == 0:
        return -math.inf, 0
    if row.device.type == "cpu":
        values = row.numpy()
        values.partition(count - 1)
        return values[count - 1].item(), np.count_nonzero(values[:count] == values[count - 1])
    limit = row.kthvalue(count).values
    return limit.item(), count - int((row < limit).count_nonzero())


class _Magnitudes(Sequence):
    """The absolute values of matrices, each computed when it is asked for: all of them are another copy in memory."""

    def __init__(self, weights: Sequence[Tensor]):
        self._weights = weights

    def __len__(self) -> int:
        return len(self._weights)

    def __getitem__(self, index: int) -> Tensor:
        return self._weights[index].detach().abs()


def _keys(scores: Sequence[Tensor] | None, weights: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """The keys that rank entries, each to break ties of the one before."""
    if scores is not None:
        yield scores
    yield _Magnitudes(weights)


def _side_by_side(scores: Sequence[Tensor], masks: Sequence[Tensor], sizes: list[int]) -> Iterable[Tensor]:
    """The alive scores of each row, ``sizes`` of them, in one tensor that is written piece by piece."""
    alive, filled = None, 0
    for score, mask in zip(scores, masks, strict=True):
        values = _alive(score, mask)
        if alive is None:
            alive = values.new_empty(sum(sizes))
        alive[filled : filled + len(values)] = values
        filled += len(values)
    return alive.split(sizes)


def _drop_lowest(keys: Iterator[Sequence[Tensor]], masks: Sequence[Tensor], counts: list[int]) -> list[Tensor]:
    """``masks`` without the ``counts[k]`` lowest alive entries of row k, by the next of ``keys`` and those after it;
    entries equal in all of them go in memory order."""
    if not any(counts):
        return [mask.clone() for mask in masks]
    if (scores := next(keys, None)) is None:
        return _drop_first(masks, counts)
    sizes = alive_per_row(masks)
    rows = zip(_side_by_side(scores, masks, sizes), counts, strict=True)
    limits_and_equals = [_limit(row, count) for row, count in rows]
    del rows  # as large as the scores
    limits = torch.tensor([[limit] for limit, _ in limits_and_equals], dtype=scores[0].dtype, device=scores[0].device)
    kept = [(score <= limits).logical_not_().logical_and_(mask) for score, mask in zip(scores, masks, strict=True)]
    if alive_per_row(kept) == [size - count for size, count in zip(sizes, counts, strict=True)]:
        return kept  # all that equal a limit go
    equal = [(score == limits) & mask for score, mask in zip(scores, masks, strict=True)]
    equal = _drop_lowest(keys, equal, [equals for _, equals in limits_and_equals])
    return [keep | stays for keep, stays in zip(kept, equal, strict=True)]


def _drop_first(masks: Sequence[Tensor], counts: list[int]) -> list[Tensor]:
    """``masks`` without the first ``counts[k]`` alive entries of row k."""
    kept = []
    left = torch.tensor(counts, device=masks[0].device)
    for mask in masks:
        row, column = mask.nonzero(as_tuple=True)
        place = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
        dropped = place < left[row]
        keep = mask.clone()
        keep[row[dropped], column[dropped]] = False
        left = left - row[dropped].bincount(minlength=len(counts))
        kept.append(keep)
    return kept


def _refuse_other_counts(
    kept: list[Tensor], before: Sequence[Tensor], counts: list[int], key: Sequence[Tensor]
) -> None:
    """Raise ``StageError`` unless exactly ``counts`` entries of each row were pruned."""
    sizes = alive_per_row(before)
    pruned = [size - left for size, left in zip(sizes, alive_per_row(kept), strict=True)]
    if pruned != counts:
        why = "; some scores are NaN" if any(bool(score.isnan().any()) for score in key) else ""
        raise StageError(f"{sum(counts):,} of {sum(sizes):,} were to be pruned, and {sum(pruned):,} were{why}")


def _joined(parts: Iterator[Tensor], like: Tensor) -> Tensor:
    """The next of ``parts`` that make up a tensor of the shape of ``like``."""
    flat, filled = like.new_empty(like.numel()), 0
    while filled < like.numel():
        part = next(parts).flatten()
        flat[filled : filled + len(part)] = part
        filled += len(part)
    return flat.view_as(like)


def prune(
    scores: dict[str, Tensor] | None,
    weights: dict[str, Tensor],
    masks: Masks,
    scope: str,
    amount: Amount,
    magnitudes: dict[str, Tensor] | None = None,
    stay: Masks | None = None,
) -> Masks:
    """New masks, nested in ``masks``: of each group of the scope the lowest-scored alive entries go.

    Arguments: ``scores`` (None: the magnitudes) and ``weights`` tensors by parameter name, shaped as ``masks``;
    ``scope`` neuron (one group per output unit), layer or global; ``amount`` maps a group's alive weights (1-D) to the
    exact number to prune. Among equal scores the lowest absolute value in ``magnitudes`` (None: in ``weights``) goes
    first; entries equal in both go in memory order. Entries that are True in ``stay`` do not go: the next in rank do,
    fewer where none is left. ``StageError`` where another number was pruned than asked for, as with scores that are
    NaN.
    """
    free = masks if stay is None else {name: mask & ~stay[name] for name, mask in masks.items()}
    by_name = (magnitudes or weights, weights, masks, free)
    groups = [_groups([tensors[name] for name in masks], scope) for tensors in by_name]
    ranks = [None] * len(groups[0]) if scores is None else _groups([scores[name] for name in masks], scope)
    kept = []
    for score, magnitude, weight, mask, may_go in zip(ranks, *groups, strict=True):
        counts = _counts(amount, weight, mask)
        if stay is not None:
            counts = [min(count, size) for count, size in zip(counts, alive_per_row(may_go), strict=True)]
        left = _drop_lowest(_keys(score, magnitude), may_go, counts)
        _refuse_other_counts(left, may_go, counts, magnitude if score is None else score)
        kept += left
    parts = iter(kept)
    kept = {name: _joined(parts, mask) for name, mask in masks.items()}
    return kept if stay is None else {name: part | masks[name] & stay[name] for name, part in kept.items()}


def magnitude_masks(weights: dict[str, Tensor], masks: Masks, scope: str, amount: Amount) -> Masks:
    """Masks without the weights of smallest magnitude: ``prune`` with the magnitudes as scores."""
    with torch.no_grad():
        return prune(None, weights, masks, scope, amount)
