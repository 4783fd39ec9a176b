"""What the readers of a channel group see: inputs and outputs of conv and linear layers, channel by channel."""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.channels import Slice

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
    for each that turns a batch's (input, output) into what is to be kept of it: a tensor, or a tuple of tensors and
    None, their first dimension the images or a multiple of them.
    Returns by name what was kept (without functions: the pair) of all batches, in the order of the images. The network
    is left as it was. ValueError where the forward pass does not call a module exactly once.
    """
    reduce = names if isinstance(names, dict) else {name: lambda read, written: (read, written) for name in names}
    batches = {name: [] for name in reduce}

    def hook(name: str):
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            batches[name].append(reduce[name](inputs[0], output))

        return keep

    modes = {module: module.training for module in network.modules()}
    hooks = [network.get_submodule(name).register_forward_hook(hook(name)) for name in reduce]
    parts = images.split(batch_size)
    try:
        network.eval()
        with torch.no_grad():
            for batch in parts:
                network(batch)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for handle in hooks:
            handle.remove()
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
    are averaged to at most ``cells`` x ``cells``; a flattened k that is no square to at most cells**2 runs. Tokens are
    averaged and k stays: the dimensions of an attention head are no neighbours.
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
