"""Coupled channel groups through Torch-Pruning's dependency graph, and channel masks.

Which layers share channels is read from the autograd graph of one forward pass (DepGraph: Fang et al. 2023, arXiv
2301.12900), and then tested on the network rather than trusted.
"""

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunus.masks import Masks
from prunus.networks.vit import Attention

_PROBES = 3  # a single draw of halves can be blind to a permutation of few channels


@dataclass(frozen=True)
class Slice:
    """The part of one parameter that belongs to the channels of a group.

    ``dim`` 0: it writes them (rows of a producing layer, its bias, norm scale and shift); ``dim`` 1: it reads them.
    ``index`` int64 [channels, k]: the entries along ``dim`` that belong to each channel.
    """

    parameter: str
    dim: int
    index: Tensor


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together, named after the first layer that writes them."""

    name: str
    size: int
    slices: tuple[Slice, ...]

    @property
    def writes(self) -> tuple[Slice, ...]:
        return tuple(part for part in self.slices if part.dim == 0)

    @property
    def reads(self) -> tuple[Slice, ...]:
        return tuple(part for part in self.slices if part.dim == 1)


def groups(network: nn.Module, shape: tuple[int, int, int]) -> list[Group]:
    """The prunable channel groups of ``network`` for images of ``shape`` (channels, height, width).

    They come in ``named_modules`` order of the first layer that writes them. A residual stream is one group, written
    by all its blocks; a depthwise convolution writes the channels it reads and has no slice of dimension 1; a channel
    of an ``Attention`` is a head: rows of query, key and value, columns of the projection. These are not prunable and
    in no group: the image's channels, the network's outputs, and channels that meet a layer norm, a group norm or a
    parameter outside of conv, linear and norm layers, such as the residual stream of a vision transformer. Layer norm
    normalises over the channels, so removing some changes the others.

    ValueError where the graph does not say which entries belong to which channel, or where a test shows that the
    network depends on channels that nothing reads. ``network`` is left as it was.
    """
    replica = copy.deepcopy(network).eval().requires_grad_(True).double()
    device = next(replica.parameters()).device
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = list(_trace(replica, torch.zeros(1, *shape, device=device, dtype=torch.float64)))
    _probe(replica, shape, traced)
    return traced


def _trace(network: nn.Module, images: Tensor) -> Iterator[Group]:
    from torch_pruning import DependencyGraph

    source = []

    # The product with 1 gives images and logits a node each in the graph, which marks their groups.
    def forward(network: nn.Module, images: Tensor) -> Tensor:
        images = images * 1
        source.append(images.grad_fn)
        return network(images) * 1

    graph = DependencyGraph().build_dependency(network, images.requires_grad_(), forward, verbose=False)
    names = {module: name for name, module in network.named_modules()}
    grouped = set()
    for module, name in names.items():
        if isinstance(module, Attention):
            yield _heads(module, name)
            grouped |= {module.query, module.key, module.value}
        if not isinstance(module, nn.Conv2d | nn.Linear) or module in grouped or module not in graph.module2node:
            continue
        size = module.weight.shape[0]
        prune = graph.get_pruner_of_module(module).prune_out_channels
        items = list(graph.get_pruning_group(module, prune, list(range(size))))
        grouped |= {item.dep.target.module for item in items if graph.is_out_channel_pruning_fn(item.dep.handler)}
        if any(item.dep.target.grad_fn is source[0] or _pinned(item.dep.target.module) for item in items):
            continue
        slices = [part for item in items for part in _slices(graph, item, names, size, images.device)]
        if not any(part.dim == 1 for part in slices):
            raise ValueError(f"{name}: no layer reads its channels")
        yield Group(name, size, tuple(slices))


def _pinned(module: nn.Module | Tensor) -> bool:
    """Whether the channels of a graph node must all stay: logits, norms over channels, free parameters."""
    from torch_pruning import ops

    return isinstance(module, ops._OutputOp | nn.LayerNorm | nn.GroupNorm | nn.Parameter)


def _heads(attention: Attention, name: str) -> Group:
    rows = torch.arange(attention.heads * attention.head_dim, device=attention.query.weight.device)
    index = rows.view(attention.heads, attention.head_dim)
    writers = [f"{layer}.{kind}" for layer in ("query", "key", "value") for kind in ("weight", "bias")]
    slices = [Slice(f"{name}.{writer}", 0, index) for writer in writers]
    return Group(f"{name}.query", attention.heads, (*slices, Slice(f"{name}.projection.weight", 1, index)))


def _slices(graph, item, names: dict[nn.Module, str], size: int, device: torch.device) -> Iterator[Slice]:
    """The slices of one layer, from Torch-Pruning's list of its entries and the channel each one belongs to."""
    module = item.dep.target.module
    if module not in names:
        return  # an operation without parameters
    name = names[module]
    depthwise = isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels == module.out_channels
    plain = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    norm = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine
    if not (depthwise or plain or norm):
        raise ValueError(f"{name}: the channels of this {type(module).__name__} cannot be mapped")
    pairs = torch.tensor([item.root_idxs, item.idxs], device=device)
    order = pairs[1].argsort()
    order = order[pairs[0][order].argsort(stable=True)]
    counts = pairs[0].bincount(minlength=size)
    if not (counts == counts[0]).all():
        raise ValueError(f"{name}: its entries do not spread evenly over {size} channels")
    index = pairs[1][order].view(size, -1)
    reads = plain and graph.is_in_channel_pruning_fn(item.dep.handler)
    yield Slice(f"{name}.weight", int(reads), index)
    if not reads and module.bias is not None:
        yield Slice(f"{name}.bias", 0, index)


def _probe(network: nn.Module, shape: tuple[int, int, int], groups: list[Group]) -> None:
    """ValueError where outputs depend on channels that nothing reads: random halves of all groups, then the others.

    This detects a wrong index, and a reader or coupling that the graph has missed. ``network`` is overwritten.
    """
    generator = torch.Generator().manual_seed(0)
    state = copy.deepcopy(network.state_dict())
    parameters = dict(network.named_parameters())
    images = torch.randn(1, *shape, generator=generator, dtype=torch.float64).to(next(network.parameters()).device)

    def outputs(unread: Masks) -> Iterator[Tensor]:
        network.load_state_dict(state)
        for group in groups:
            for part in group.reads:
                parameters[part.parameter].index_fill_(1, entries_of(part, unread[group.name]), 0)
        yield network(images)
        for group in groups:
            for part in group.writes:
                values, entries = parameters[part.parameter], entries_of(part, unread[group.name])
                values[entries] = 1 - 2 * values[entries]
        yield network(images)

    with torch.no_grad():
        for _ in range(_PROBES):
            halves = {group.name: torch.randperm(group.size, generator=generator) < group.size // 2 for group in groups}
            for unread in (halves, {name: ~half for name, half in halves.items()}):
                before, after = outputs(unread)
                # A network that has diverged to NaN passes: it shows nothing.
                if ((before - after).abs() > 1e-6 * before.abs().max()).any():
                    raise ValueError(f"channels of this {type(network).__name__} depend on each other in unknown ways")


def entries_of(part: Slice, channels: Tensor) -> Tensor:
    """The entries of a slice that belong to the ``channels`` (bool [size]), 1-D."""
    return part.index[channels.to(part.index.device)].flatten()


def alive(groups: list[Group], masks: Masks) -> Masks:
    """Per group name a bool vector [size]: a channel is alive while any weight that reads it is.

    What nothing reads can be deleted without a change of the outputs, whatever else a mask has left of it; a channel
    whose own weights have all gone still passes its bias on. A reader without a mask keeps its channels alive.
    """
    result = {}
    for group in groups:
        living = torch.zeros(group.size, dtype=torch.bool, device=group.slices[0].index.device)
        for part in group.reads:
            mask = masks.get(part.parameter)
            living |= True if mask is None else mask.transpose(0, 1).flatten(1).any(1)[part.index].any(1)
        result[group.name] = living
    return result


def share_removed(groups: list[Group], masks: Masks) -> float:
    """The fraction of all channels that nothing reads any more; 0 where a network has no groups."""
    living = alive(groups, masks).values()
    return 1 - sum(int(mask.sum()) for mask in living) / sum(mask.numel() for mask in living) if groups else 0.0


def expand(groups: list[Group], alive: Masks, masks: Masks) -> Masks:
    """New weight masks, nested in ``masks``, without the rows that write a dead channel and the columns that read it.

    ``alive`` per group name a bool vector [size]. Parameters without a mask, such as biases, are left out.
    """
    result = {name: mask.clone() for name, mask in masks.items()}
    for group in groups:
        for part in group.slices:
            if part.parameter in result:
                result[part.parameter].index_fill_(part.dim, entries_of(part, ~alive[group.name]), False)
    return result


def sums(groups: list[Group], scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Per group name the sum of the scores of each channel's incoming weights [size]: a weight score made structured.

    It runs over all writers of the group that are in ``scores`` (tensors by parameter name). Westphal et al. 2024
    (MIPP, arXiv 2411.00147 v1, section 5) make SynFlow and GraSP structured by this sum over the weights of a node.
    """
    result = {}
    for group in groups:
        rows = [
            scores[part.parameter].flatten(1).sum(1)[part.index].sum(1)
            for part in group.writes
            if part.parameter in scores
        ]
        result[group.name] = torch.stack(rows).sum(0)
    return result
