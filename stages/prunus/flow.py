"""Information flow and gradient flow between layers, and the distance between two flows.

Gharatappeh and Yasaei Sekeh, "Information Consistent Pruning" (InCoP, arXiv 2501.15592). The authors' published code
departs from the paper (a stale mini-batch gradient, NaN from constant units, a mean compared with a norm); this is
the definition. Their code's gradient statistic is kept as ``stale_gradient_flow`` for `reference_quirks`. What a single
weight means for a flow is the flow's derivative, ``information_saliency`` and ``gradient_saliency``.
"""

import copy

import torch
from torch import Tensor, nn

from prunus.masks import Masks, prunable
from prunus.networks.inspect import evaluating, hooked, loss_gradients, why_not_finite
from prunus.run.errors import StageError

SHORTCUTS = ("downsample", "shortcut")


def flow_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Convolution and linear layers by name, in ``named_modules`` order, without downsample and shortcut layers."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not any(word in name for word in SHORTCUTS)
    }


def _pooled_outputs(network: nn.Module, images: Tensor, batch_size: int, graph: bool = False) -> list[Tensor]:
    """Each flow layer's output before batch norm and ReLU, averaged over space or tokens: one [N, units] per layer.

    With ``graph`` they can be differentiated.
    """
    layers = flow_layers(network)
    pooled = {name: [] for name in layers}

    def pool(name: str, layer: nn.Module, read: Tensor, written: Tensor) -> None:
        if written.dim() > 2:
            written = written.flatten(2).mean(2) if isinstance(layer, nn.Conv2d) else written.flatten(1, -2).mean(1)
        pooled[name].append(written)

    with evaluating(network), hooked(layers, pool), torch.set_grad_enabled(graph):
        for batch in images.split(batch_size):
            network(batch)
    return [torch.cat(batches) for batches in pooled.values()]


def _standardise(activations: Tensor) -> Tensor:
    """Columns to mean 0 and deviation 1 in float64; a constant column becomes 0 and contributes no flow.

    Constant is judged against the column's own magnitude, which keeps the flow invariant to rescaling a unit.
    """
    values = activations.to(torch.float64)
    mean = values.mean(0)
    centred = values - mean
    variance = centred.square().mean(0)
    constant = variance.sqrt() <= 1e-6 * values.square().mean(0).sqrt()
    deviation = torch.where(constant, 1.0, variance).sqrt()  # the root of 0 has no derivative
    return torch.where(constant, 0.0, centred / deviation)


def _connectivity(outputs: list[Tensor], correlation: str) -> Tensor:
    """The mean correlation between the columns of each two consecutive ``outputs`` [N, units].

    Signed: by bilinearity the mean over the M x M' pairs equals mean_n zbar(n) zbar'(n), zbar the mean of a layer's
    standardised units, so a pair costs O(N (M + M')) and no correlation matrix is built. Only absolute needs it.
    """
    flows, previous = [], None
    for activations in outputs:
        current = _standardise(activations)
        current = current.mean(1) if correlation == "signed" else current
        if previous is not None:
            if correlation == "signed":
                flows.append((previous * current).mean())
            else:
                flows.append((previous.T @ current).abs().mean() / len(current))
        previous = current
    return torch.stack(flows) if flows else torch.zeros(0, dtype=torch.float64)


def information_flow(network: nn.Module, images: Tensor, correlation: str = "signed", batch_size: int = 256) -> Tensor:
    """Connectivity of consecutive layers: the mean correlation of a unit of one with a unit of the next.

    Arguments: ``images`` [N, C, H, W] as the network takes them, on its device; ``correlation`` signed (the published
    code) or absolute (the same laboratory's earlier work; the signed mean cancels nearly everything).
    Returns a float64 tensor with one entry per consecutive pair of ``flow_layers``. The network is run in eval mode,
    in one forward pass over the images; outputs of convolutions are averaged over space, those of linear layers on
    tokens [N, tokens, units] over the tokens; a unit that is constant over the images counts as correlation 0.
    """
    if correlation not in ("signed", "absolute"):
        raise ValueError(f"correlation: {correlation!r}; allowed: signed, absolute")
    return _connectivity(_pooled_outputs(network, images, batch_size), correlation)


def gradient_flow(
    network: nn.Module, images: Tensor, labels: Tensor, masks: Masks | None = None, batch_size: int = 256
) -> Tensor:
    """L2 norm, per prunable layer, of the masked gradient of the mean cross-entropy over all the images.

    Arguments: ``images`` [N, C, H, W], ``labels`` [N]; ``masks`` by parameter name, None = all alive, of a ``network``
    whose pruned weights are zero.
    Returns a float64 tensor, one entry per prunable parameter. The gradient is that of the network in eval mode; the
    stored ``.grad`` of the parameters is left alone.
    """
    with evaluating(network):
        return _norms(loss_gradients(network, images, labels, batch_size), masks)


def _norms(gradients: dict[str, Tensor], masks: Masks | None) -> Tensor:
    masked = [gradient if masks is None else gradient * masks[name] for name, gradient in gradients.items()]
    return torch.stack([torch.linalg.vector_norm(gradient.to(torch.float64)) for gradient in masked])


def _removal_effects(network: nn.Module, flow: Tensor) -> dict[str, Tensor]:
    """sqrt(sum_l (w dPhi_l/dw)^2) by parameter name, float64: one backward pass per entry of ``flow``."""
    weights = prunable(network)
    totals = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    for entry in flow:
        gradients = torch.autograd.grad(entry, list(weights.values()), retain_graph=True, materialize_grads=True)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            totals[name] += (weight.detach().double() * gradient).square()
    return {name: total.sqrt() for name, total in totals.items()}


def information_saliency(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """How far information flow (absolute) moves, to first order, when a weight is removed, by parameter name.

    ``images`` [N, C, H, W] are held in memory with all that the network makes of them. The values are L2 norms over
    the entries of Phi, float64 [shape of the weight], 0 for weights that are 0.
    """
    return _removal_effects(network, _connectivity(_pooled_outputs(network, images, len(images), True), "absolute"))


def gradient_saliency(
    network: nn.Module, images: Tensor, labels: Tensor, masks: Masks | None = None
) -> dict[str, Tensor]:
    """The same for gradient flow (``masks`` as for ``gradient_flow``), through the graph of the gradients: a product
    with the Hessian.

    A layer whose masked gradient is zero has no direction to move in and counts as still.
    """
    with evaluating(network):
        return _removal_effects(network, _norms(loss_gradients(network, images, labels, graph=True), masks))


def stale_gradient_flow(network: nn.Module, batches: int) -> dict[str, Tensor]:
    """What the authors' code calls gradient flow: statistics of the gradient the last training mini-batch left.

    Returns per prunable layer the ``mean`` of |g| and the ``norm`` of g, both times B / (B - 1) for the B =
    ``batches`` mini-batches of an epoch, because their loop adds the same number B times and divides by the last
    index (activation.py:gradient_flow). With B = 1 they divide by zero; here the factor is then 1. Where a mask has
    pruned, training has set g to zero; the mean is over all entries, as theirs is.
    """
    factor = batches / max(batches - 1, 1)
    gradients = [
        torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in prunable(network).values()
    ]
    return {
        "mean": factor * torch.stack([gradient.to(torch.float64).abs().mean() for gradient in gradients]),
        "norm": factor * torch.stack([torch.linalg.vector_norm(g.to(torch.float64)) for g in gradients]),
    }


def finite(
    flow: Tensor, label: str, network: nn.Module, images: Tensor | None = None, labels: Tensor | None = None
) -> Tensor:
    """``flow`` of ``network`` on ``images``; ``StageError``, which calls it ``label`` and says why, where an entry is
    not finite. Such a flow has no distance to another, so nothing can be decided by it."""
    if flow.isfinite().all():
        return flow
    message = f"{label} is not finite in {int((~flow.isfinite()).sum())} of {len(flow)} entries"
    why = "" if images is None else f": {why_not_finite(copy.deepcopy(network).eval(), images, labels)}"
    raise StageError(message + why, "not_finite")


def flow_distance(current: Tensor, reference: Tensor, metric: str = "l2") -> float:
    """Distance between two flow vectors of equal length: l2, the norm of the difference, or cosine, 1 - cos(angle).

    A zero vector has no direction: its cosine distance is 0 to another zero vector and 1 to any other.
    """
    current, reference = (torch.as_tensor(flow, dtype=torch.float64).cpu() for flow in (current, reference))
    if current.shape != reference.shape:
        raise ValueError(f"flows of {len(current)} and {len(reference)} layers cannot be compared")
    if metric == "l2":
        return torch.linalg.vector_norm(current - reference).item()
    if metric != "cosine":
        raise ValueError(f"metric: {metric!r}; allowed: l2, cosine")
    norms = torch.linalg.vector_norm(current), torch.linalg.vector_norm(reference)
    if not all(norms):
        return 0.0 if norms[0] == norms[1] else 1.0
    return max(0.0, (1 - current @ reference / (norms[0] * norms[1])).item())
