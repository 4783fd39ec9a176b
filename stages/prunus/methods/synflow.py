"""SynFlow, iterative synaptic flow pruning without data (Tanaka et al., NeurIPS 2020, arXiv 2006.05467).

All weights and statistics are replaced by their absolute values, an image of ones goes through the network in eval
mode, R is the sum of the outputs and a weight's score |w dR/dw|. In a network of rectifiers without biases the scores
of every layer add up to R, so that no layer is cut to nothing while another has many; 100 scorings on an exponential
schedule keep it so. At initialisation, as published. In float64, where deep networks neither overflow nor vanish.

`structure: channel` sums the scores of a node's weights, as MIPP's comparison does (arXiv 2411.00147, section 5).
"""

import torch
from torch import Tensor, nn

from prunus.masks import prunable
from prunus.pruning.candidates import Candidates, Scores
from prunus.pruning.gradients import IteratedSettings, iterated, structured
from prunus.pruning.recipe import Recipe


class Settings(IteratedSettings):
    """At initialisation, without data; `steps` scorings an iteration."""

    def misfit(self, network: str, channels: int) -> str | None:
        if network == "vit":
            return (
                "scores by the size of the outputs, and in vit layer norm makes them independent of the weights' size"
            )
        return super().misfit(network, channels)


def synaptic_flow(network: nn.Module, shape: tuple[int, int, int]) -> Scores:
    """|w dR/dw| by parameter name, float64. ``network`` is changed (absolute values, float64) and put in eval mode."""
    network.double().eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.abs_()
    weights = prunable(network)
    ones = torch.ones(1, *shape, dtype=torch.float64, device=next(network.parameters()).device)
    gradients: tuple[Tensor, ...] = torch.autograd.grad(network(ones).sum(), list(weights.values()))
    return {
        name: (weight * gradient).abs().detach()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def recipe(settings: Settings) -> Recipe:
    def score(candidates: Candidates) -> Scores:
        scores = synaptic_flow(candidates.networks("initial"), candidates.dataset.shape)
        return structured(settings, candidates, scores)

    return iterated(settings, score)
