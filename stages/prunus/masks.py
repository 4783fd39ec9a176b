"""Weight masks: which parameters are prunable, which entries go, and keeping what went at zero.

Masks are dictionaries from parameter name to bool tensor, True = alive. Prunable are the parameters whose last name
component contains "weight" and that have more than one dimension: convolutions and linear layers, the classifier
included, never biases or batch norm (SAP's reference code, and InCoP's after it).
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from prunus.sparsity import Amount

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


def mask_gradients(network: nn.Module, masks: Masks) -> None:
    """Zero the gradients of pruned weights in place.

    A weight that is zero and never sees a gradient stays exactly zero under momentum and weight decay.
    """
    weights = prunable(network)
    pairs = [(weight.grad, masks[name]) for name, weight in weights.items() if weight.grad is not None]
    if pairs:
        torch._foreach_mul_([gradient for gradient, _ in pairs], [mask for _, mask in pairs])


def alive_count(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def density(masks: Masks) -> float:
    """Fraction of prunable weights that is alive."""
    return alive_count(masks) / sum(mask.numel() for mask in masks.values())


def collapsed(masks: Masks) -> list[str]:
    """The layers that have no weight left. Where nothing leads around such a layer, no training can mend it."""
    return [name.removesuffix(".weight") for name, mask in masks.items() if not mask.any()]


def _groups(tensors: dict[str, Tensor], scope: str) -> Iterator[Tensor]:
    """The 1-D vectors a scope looks at: everything, one per parameter, or one per output unit (dimension 0)."""
    if scope == "global":
        yield torch.cat([tensor.flatten() for tensor in tensors.values()])
    elif scope == "layer":
        yield from (tensor.flatten() for tensor in tensors.values())
    elif scope == "neuron":
        for tensor in tensors.values():
            yield from tensor.flatten(1)
    else:
        raise ValueError(f"scope: {scope!r}; allowed: neuron, layer, global")


def _drop_lowest(scores: Tensor, mask: Tensor, count: int) -> Tensor:
    """``mask`` without the ``count`` alive entries of lowest score; among equal scores the first ones go."""
    if count == 0:
        return mask.clone()
    alive_scores = scores[mask]
    threshold = alive_scores.kthvalue(count).values
    drop = alive_scores < threshold
    ties = (alive_scores == threshold).nonzero().flatten()
    drop[ties[: count - int(drop.sum())]] = True
    kept = mask.clone()
    kept[mask] = ~drop
    return kept


def prune(scores: dict[str, Tensor], weights: dict[str, Tensor], masks: Masks, scope: str, amount: Amount) -> Masks:
    """New masks, nested in ``masks``: of each group of the scope the lowest-scored alive entries go.

    Arguments: ``scores`` and ``weights`` tensors by parameter name, shaped as ``masks``; ``scope`` neuron (one group
    per output unit), layer or global; ``amount`` maps a group's alive weights (1-D) to the exact number to prune.
    """
    names = list(masks)
    per_group = zip(
        *(_groups({name: tensors[name] for name in names}, scope) for tensors in (scores, weights, masks)), strict=True
    )
    kept = []
    for score, weight, mask in per_group:
        alive = weight[mask]
        kept.append(_drop_lowest(score, mask, min(amount(alive), alive.numel())))
    sizes = [masks[name].numel() for name in names]
    flat = torch.cat(kept).split(sizes)
    return {name: part.view_as(masks[name]).clone() for name, part in zip(names, flat, strict=True)}


def magnitude_masks(weights: dict[str, Tensor], masks: Masks, scope: str, amount: Amount) -> Masks:
    """Masks without the weights of smallest magnitude: ``prune`` with the magnitudes as scores."""
    with torch.no_grad():
        return prune({name: weight.abs() for name, weight in weights.items()}, weights, masks, scope, amount)
