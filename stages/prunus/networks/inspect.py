"""What is measured of a network that cannot be used: where its numbers stop being finite, and which batch norm would
have a single value to normalise."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 256
FAR = 1e3  # answers so many times larger than with the statistics of the batch: the running ones do not fit
NORMS = nn.BatchNorm1d | nn.BatchNorm2d


def with_batch_statistics(network: nn.Module) -> nn.Module:
    """``network`` in eval mode, its batch norm apart, which takes the statistics of the batch it is given."""
    network.eval()
    for module in network.modules():
        if isinstance(module, NORMS):
            module.train()
    return network


def norm_of_one_value(network: nn.Module, image: Tensor) -> str | None:
    """The first batch norm that has one value per channel to normalise, and so nothing, when ``network`` is trained on
    the one ``image`` [1, C, H, W]; None where there is none. ``network`` is left as it was."""
    found, replica = [], copy.deepcopy(network).eval()

    def look(name: str):
        return lambda norm, inputs: found.append(name) if inputs[0].numel() == inputs[0].shape[1] else None

    for name, module in replica.named_modules():
        if isinstance(module, NORMS):
            module.register_forward_pre_hook(look(name))
    with torch.no_grad():
        replica(image)
    return next(iter(found), None)


def why_not_finite(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> str:
    """A clause that says, as measured, why what was computed from ``network`` on ``images`` is not finite.

    Arguments: ``network`` in the mode it was used in, left as it was; ``images`` [N, C, H, W] as it takes them;
    ``labels`` [N], None: gradients had no part in it. Looked at are, in this order, the outputs of its layers, the
    gradient of its mean loss on the first 256 images, and whether batch norm's running statistics are what is wrong.
    """
    replica = copy.deepcopy(network)
    layer, largest = _overflow(replica, images)
    if layer is not None:
        said = f"its activations are not finite from {layer} on"
    elif labels is not None and (weight := _gradient_overflow(replica, images[:BATCH], labels[:BATCH])):
        said = f"its largest answer is {largest:.2g} and the gradient of the loss is not finite in {weight}"
    else:
        gradients = "" if labels is None else " and the gradient of the loss is finite"
        said = f"its largest answer is {largest:.2g}{gradients}: the numbers overflow in what is computed from them"
    norms = [module for module in replica.modules() if isinstance(module, NORMS)]
    if norms and not any(norm.training for norm in norms) and len(images) > 1:
        there, size = _overflow(with_batch_statistics(replica), images[:BATCH])
        if there is None and (layer is not None or largest > FAR * size):
            return (
                f"with the running statistics of batch norm {said}, with those of the images its largest answer is "
                f"{size:.2g}; the running statistics do not fit the weights yet: train it for more steps (more epochs, "
                "or smaller batches)"
            )
    return said


@torch.no_grad()
def _overflow(network: nn.Module, images: Tensor) -> tuple[str | None, float]:
    """The first layer, in the order of the forward pass, with an output that is not finite (None: there is none), and
    the largest absolute answer."""
    found, largest = [], 0.0

    def look(name: str):
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                found.append(name)

        return keep

    leaves = [(name, module) for name, module in network.named_modules() if next(module.children(), None) is None]
    hooks = [module.register_forward_hook(look(name)) for name, module in leaves]
    try:
        for batch in images.split(BATCH):
            answers = network(batch)
            if found or not answers.isfinite().all():
                return (found or ["its last layer"])[0], float("nan")
            largest = max(largest, answers.abs().max().item())
    finally:
        for hook in hooks:
            hook.remove()
    return None, largest


def _gradient_overflow(network: nn.Module, images: Tensor, labels: Tensor) -> str | None:
    """The first parameter for which the gradient of the mean cross-entropy is not finite."""
    parameters = dict(network.named_parameters())
    with torch.enable_grad():
        loss = F.cross_entropy(network(images), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    pairs = zip(parameters, gradients, strict=True)
    return next((name for name, gradient in pairs if gradient is not None and not gradient.isfinite().all()), None)
