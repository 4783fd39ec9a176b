"""The network that is left when pruned channels are cut out: smaller, with the same answers."""

import copy

import torch
from torch import Tensor, nn

from prunus.channels.groups import Group, alive, entries_of, expand
from prunus.masks import Masks, alive_count
from prunus.networks.vit import Attention


def compact(network: nn.Module, groups: list[Group], masks: Masks) -> nn.Module:
    """A smaller copy of ``network`` with the same answers as the masked network in eval mode.

    Channels that nothing reads are removed, then those that only removed channels read; the masked weights of living
    channels are zero. A group without a living channel keeps one. The copy's parameters all require a gradient and have
    none yet; ``network`` is left as it was.
    """
    before = None
    while before != alive_count(masks):
        before = alive_count(masks)
        living = alive(groups, masks)
        masks = expand(groups, living, masks)

    small = copy.deepcopy(network)
    for name, mask in masks.items():
        small.get_parameter(name).data.mul_(mask)
    kept = {}
    for group in groups:
        dead = ~living[group.name]
        dead[0] &= not dead.all()
        for part in group.slices:
            length = small.get_parameter(part.parameter).shape[part.dim]
            keep = kept.setdefault((part.parameter, part.dim), torch.ones(length, dtype=torch.bool, device=dead.device))
            keep[entries_of(part, dead)] = False
    for (name, dim), keep in kept.items():
        _select(small, name, dim, keep)
    sizes_from_weights(small)
    small.zero_grad(set_to_none=True)
    return small.requires_grad_(True)


def _select(network: nn.Module, name: str, dim: int, keep: Tensor) -> None:
    """Cut a parameter down to the entries ``keep`` (bool) along ``dim``, and a norm's statistics with its weight."""
    owner, _, kind = name.rpartition(".")
    layer = network.get_submodule(owner)
    values = getattr(layer, kind).detach()
    setattr(layer, kind, nn.Parameter(values.index_select(dim, keep.nonzero().flatten())))
    if kind == "weight" and getattr(layer, "running_mean", None) is not None:
        layer.running_mean, layer.running_var = layer.running_mean[keep], layer.running_var[keep]


def sizes_from_weights(network: nn.Module) -> None:
    """Set the sizes that layers keep beside their weights to what the weights have, in place."""
    for module in network.modules():
        if isinstance(module, Attention):
            module.heads = module.query.weight.shape[0] // module.head_dim
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Conv2d):
            if 1 < module.groups == module.in_channels == module.out_channels:
                module.groups = module.weight.shape[0]
            module.out_channels, per_group = module.weight.shape[:2]
            module.in_channels = per_group * module.groups
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            module.num_features = module.weight.shape[0]
