"""Multiply-accumulate operations of a network per image, dense or as far as masks leave weights alive."""

import torch
from torch import Tensor, nn

from prunus.networks.inspect import evaluating, hooked


def multiply_accumulates(
    network: nn.Module, input_shape: tuple[int, ...], masks: dict[str, Tensor] | None = None
) -> dict[str, int]:
    """MACs of one image of ``input_shape`` (channels, height, width) per conv and linear layer.

    Keys are layer names in ``named_modules`` order, with 0 for a layer the forward pass never calls. ``masks`` maps
    parameter names such as ``conv1.weight`` to bool tensors of their shape, True where alive; a pruned weight costs
    nothing, which is the theoretical count: dense kernels do not run faster on zeros. Padding counts like any pixel;
    biases, norms, activations and attention's products of tokens with tokens are left out. The network is left as it
    was: training flags, statistics, hooks.
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    alive = {name: layer.weight.numel() for name, layer in layers.items()}
    for name in layers:
        if masks is not None and f"{name}.weight" in masks:
            alive[name] = int(torch.count_nonzero(masks[f"{name}.weight"]))
    counts = dict.fromkeys(layers, 0)

    def count(name: str, layer: nn.Module, read: Tensor, written: Tensor) -> None:
        # Each weight is used once per output position: pixel of a feature map, or row of a linear layer.
        counts[name] += alive[name] * (written.numel() // layer.weight.shape[0])

    weight = next(network.parameters())
    with evaluating(network), hooked(layers, count), torch.no_grad():
        network(torch.zeros(1, *input_shape, device=weight.device, dtype=weight.dtype))
    return counts
