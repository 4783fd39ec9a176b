"""What the readers of a channel group see: inputs and outputs of conv and linear layers, channel by channel.

`Readings` pairs each group with the layers that read it, for what mutual information between layers needs (MIPP,
arXiv 2411.00147: X_l and X_{l+1}).
"""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.channels.groups import Group, Slice
from prunus.masks import Masks
from prunus.networks.inspect import evaluating, hooked

Kept = Tensor | tuple[Tensor | None, ...]
Reduce = Callable[[Tensor, Tensor], Kept]


def reader_name(part: Slice) -> str:
    """The name of the layer whose weight ``part`` is a slice of."""
    return part.parameter.removesuffix(".weight")


def capture(
    network: nn.Module, images: Tensor, names: Iterable[str] | dict[str, Reduce], batch_size: int = 256
) -> dict[str, Kept]:
    """Inputs and outputs of the modules called ``names``, in eval mode, without gradients.

    Arguments: ``images`` [N, C, H, W] as the network takes them, on its device; ``names`` the modules, or a function
    for each that turns a batch's (input, output) into what is kept of it: a tensor, or a tuple of tensors and
    None, their first dimension the images or a multiple of them.
    Returns by name what was kept (without functions: the pair) of all batches, in the order of the images. The network
    is left as it was. ValueError where the forward pass does not call a module exactly once.
    """
    reduce = names if isinstance(names, dict) else {name: lambda read, written: (read, written) for name in names}
    batches, parts = {name: [] for name in reduce}, images.split(batch_size)

    def keep(name: str, module: nn.Module, read: Tensor, written: Tensor) -> None:
        batches[name].append(reduce[name](read, written))

    modules = {name: network.get_submodule(name) for name in reduce}
    with evaluating(network), hooked(modules, keep), torch.no_grad():
        for batch in parts:
            network(batch)
    for name, kept in batches.items():
        if len(kept) != len(parts):
            raise ValueError(f"{name}: called {len(kept)} times in {len(parts)} forward passes, not once in each")
    return {name: _joined(kept) for name, kept in batches.items()}


def _joined(batches: list[Kept]) -> Kept:
    if isinstance(batches[0], Tensor):
        return torch.cat(batches)
    return tuple(None if part[0] is None else torch.cat(part) for part in zip(*batches, strict=True))


def cells(reading: Tensor, index: Tensor, cells: int) -> Tensor:
    """The activations of each channel, from the input of a layer that reads it, as [N, channels, k'].

    ``reading`` [N, C, H, W] (convolution), [N, F] (linear) or [N, tokens, F] (linear on tokens); ``index`` int64
    [channels, k]: the entries along C or F that belong to each channel. Maps, and flattened maps where k is a square,
    are averaged to at most ``cells`` x ``cells``; a flattened k that is not a square to at most cells**2 runs. Tokens
    are averaged and k stays: the dimensions of an attention head are not neighbours.
    """
    if reading.dim() == 4:
        maps = reading[:, index.flatten()]
        return _pooled(maps, cells).reshape(len(maps), len(index), -1)
    if reading.dim() == 3:
        return reading.mean(1)[:, index]
    values = reading[:, index]
    size = index.shape[1]
    side = math.isqrt(size)
    if side**2 == size:
        return _pooled(values.unflatten(2, (side, side)), cells).flatten(2)
    return F.adaptive_avg_pool1d(values, min(cells**2, size))


def _pooled(maps: Tensor, cells: int) -> Tensor:
    height, width = maps.shape[2:]
    return F.adaptive_avg_pool2d(maps, (min(cells, height), min(cells, width)))


def written_cells(written: Tensor, side: int) -> Tensor:
    """The output of a layer as [N, T], channel by channel: ``side`` x ``side`` cells of maps, means over tokens."""
    if written.dim() == 4:
        return _pooled(written, side).flatten(1)
    return written.mean(1) if written.dim() == 3 else written


class Readings:
    """What each group's readers see and write, on a sample of images.

    Arguments: ``groups`` of ``network``; ``images`` [N, C, H, W] as it takes them; ``side``: a map is read as
    ``side`` x ``side`` means. Every channel of the network is included, alive or not.
    """

    def __init__(self, network: nn.Module, groups: list[Group], images: Tensor, side: int):
        layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        self.position = {name: position for position, name in enumerate(layers)}  # named_modules is forward order
        self.writer = {reader_name(part): group for group in groups for part in group.writes}
        self.readers = {
            group.name: sorted((reader_name(part) for part in group.reads), key=self.position.get) for group in groups
        }
        index = {reader_name(part): part.index for group in groups for part in group.reads}

        def reduce(name: str):
            last = name not in self.writer  # nothing prunable reads what it writes

            def keep(read: Tensor, written: Tensor) -> tuple[Tensor, Tensor | None]:
                return cells(read, index[name], side), written_cells(written, side) if last else None

            return keep

        self._kept = capture(network, images, {name: reduce(name) for name in index})

    def variables(self, group: Group) -> Tensor:
        """[N, channels, k]: the cells of each channel, of all readers side by side."""
        return torch.cat([self._kept[name][0] for name in self.readers[group.name]], 2)

    def target(self, group: Group, alive: Masks) -> Tensor:
        """[N, T]: what the readers write, as the next layer reads it, of the channels that are alive."""
        return torch.cat([self._written(name, alive) for name in self.readers[group.name]], 1)

    def _written(self, name: str, alive: Masks) -> Tensor:
        if name not in self.writer:
            return self._kept[name][1]
        group = self.writer[name]
        following = next(reader for reader in self.readers[group.name] if self.position[reader] > self.position[name])
        return self._kept[following][0][:, alive[group.name]].flatten(1)
