"""Inspect a network: what its layers read and write, the gradient of its loss, and, if it cannot be used, where its
numbers stop being finite and which batch norm would have a single value to normalise."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunus.masks import prunable

BATCH = 256
FAR = 1e3  # running statistics do not fit if answers are so many times larger than with the batch's statistics
NORMS = nn.BatchNorm1d | nn.BatchNorm2d


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """``network`` is in eval mode inside the block; afterwards every module is in its earlier mode."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def hooked(modules: Mapping[str, nn.Module], look: Callable[[str, nn.Module, Tensor, Tensor], None]) -> Iterator[None]:
    """Inside the block every forward pass of one of ``modules`` calls ``look`` with its name, the module, its input and
    its output; afterwards the hooks are removed."""

    def hook(name: str):
        def call(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            look(name, module, inputs[0], output)

        return call

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def loss_gradients(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int | None = None,
    temperature: float = 1.0,
    graph: bool = False,
) -> dict[str, Tensor]:
    """The gradient of the mean cross-entropy with respect to the prunable weights, by parameter name.

    Arguments: ``network`` in the mode in which it is used; ``images`` [N, C, H, W] and ``labels`` [N], processed
    ``batch_size`` at a time (None: all at once, as batch norm in training mode needs); logits are divided by
    ``temperature``; with ``graph`` the gradient can be differentiated. The stored ``.grad`` does not change.
    """
    weights, size = prunable(network), batch_size or len(images)
    totals = [torch.zeros_like(weight, requires_grad=False) for weight in weights.values()]
    for image, label in zip(images.split(size), labels.split(size), strict=True):
        loss = F.cross_entropy(network(image) / temperature, label, reduction="sum") / len(images)
        torch._foreach_add_(totals, torch.autograd.grad(loss, list(weights.values()), create_graph=graph))
    return dict(zip(weights, totals, strict=True))


def with_batch_statistics(network: nn.Module) -> nn.Module:
    """Put ``network`` in eval mode, except batch norm, which uses the statistics of its batch; return it."""
    network.eval()
    for module in network.modules():
        if isinstance(module, NORMS):
            module.train()
    return network


def norm_of_one_value(network: nn.Module, image: Tensor) -> str | None:
    """The first batch norm with a single value per channel to normalise, which it cannot, when ``network`` is trained
    on one ``image`` [1, C, H, W]; None if there is none. ``network`` does not change."""
    single, replica = [], copy.deepcopy(network).eval()

    def look(name: str, norm: nn.Module, read: Tensor, written: Tensor) -> None:
        if read.numel() == read.shape[1]:
            single.append(name)

    norms = {name: module for name, module in replica.named_modules() if isinstance(module, NORMS)}
    with torch.no_grad(), hooked(norms, look):
        replica(image)
    return next(iter(single), None)


def why_not_finite(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> str:
    """A clause that says, from measurements, why a result of ``network`` on ``images`` is not finite.

    Arguments: ``network`` in the mode in which it was used, unchanged; ``images`` [N, C, H, W] as it takes them;
    ``labels`` [N], or None if no gradient was computed. It checks, in this order, the outputs of the layers, the
    gradient of the mean loss on the first 256 images, and whether batch norm's running statistics are the cause.
    """
    replica = copy.deepcopy(network)
    layer, largest = _overflow(replica, images)
    if layer is not None:
        reason = f"its activations are not finite from {layer} on"
    elif labels is not None and (weight := _gradient_overflow(replica, images[:BATCH], labels[:BATCH])):
        reason = f"its largest answer is {largest:.2g} and the gradient of the loss is not finite in {weight}"
    else:
        gradients = "" if labels is None else " and the gradient of the loss is finite"
        reason = f"its largest answer is {largest:.2g}{gradients}: what is computed from the answers overflows"
    norms = [module for module in replica.modules() if isinstance(module, NORMS)]
    if norms and not any(norm.training for norm in norms) and len(images) > 1:
        layer_on_batch, largest_on_batch = _overflow(with_batch_statistics(replica), images[:BATCH])
        if layer_on_batch is None and (layer is not None or largest > FAR * largest_on_batch):
            return (
                f"with the running statistics of batch norm {reason}, with those of the images its largest answer is "
                f"{largest_on_batch:.2g}; the running statistics do not fit the weights yet: train it for more steps "
                "(more epochs, or smaller batches)"
            )
    return reason


@torch.no_grad()
def _overflow(network: nn.Module, images: Tensor) -> tuple[str | None, float]:
    """The first layer in the forward pass with an output that is not finite (or None), and the largest absolute
    answer."""
    overflown, largest = [], 0.0

    def look(name: str, layer: nn.Module, read: Tensor, written: Tensor) -> None:
        if isinstance(written, Tensor) and not written.isfinite().all():
            overflown.append(name)

    leaves = {name: module for name, module in network.named_modules() if next(module.children(), None) is None}
    with hooked(leaves, look):
        for batch in images.split(BATCH):
            answers = network(batch)
            if overflown or not answers.isfinite().all():
                return (overflown or ["its last layer"])[0], float("nan")
            largest = max(largest, answers.abs().max().item())
    return None, largest


def _gradient_overflow(network: nn.Module, images: Tensor, labels: Tensor) -> str | None:
    """The first parameter for which the gradient of the mean cross-entropy is not finite."""
    parameters = dict(network.named_parameters())
    with torch.enable_grad():
        loss = F.cross_entropy(network(images), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    pairs = zip(parameters, gradients, strict=True)
    return next((name for name, gradient in pairs if gradient is not None and not gradient.isfinite().all()), None)
