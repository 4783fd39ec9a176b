"""The scores of single weights that a method's setting `score` chooses from, whatever else its recipe says.

Magnitude; synaptic saliency (Tanaka et al., NeurIPS 2020, arXiv 2006.05467; of the loss, it is SNIP's); layer-wise
importance (LAMP: Lee et al., ICLR 2021, arXiv 2010.07611); and flow-guided scores, which InCoP (arXiv 2501.15592)
leaves open: how far the flow vector moves, to first order, when the weight goes. All look at the network as retrained
last; those that need data look at the sample Phi* was measured on.
"""

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from prunus.flow import gradient_saliency, information_saliency
from prunus.pruning.candidates import Candidates, Scores
from prunus.pruning.gradients import sensitivity
from prunus.pruning.settings import MethodSettings
from prunus.study.catalogue import SINGLE_LAYER

# A flow cannot be differentiated batch by batch: all activations of its images stay in memory. This many are a
# large training batch; the rest of Phi*'s sample is not used.
GRAPH_IMAGES = 256


def magnitude(candidates: Candidates) -> Scores:
    """|w|."""
    return {name: weight.abs() for name, weight in candidates.current.items()}


def synaptic(candidates: Candidates) -> Scores:
    """|w dL/dw| of the mean loss over the whole sample."""
    return sensitivity(candidates.networks("current"), *candidates.flow_sample, batch_size=GRAPH_IMAGES)


def _importance(weight: Tensor, mask: Tensor) -> Tensor:
    """w^2 over the sum of the squares that come no earlier in the layer's ascending order; among equals the first in
    memory is the earliest. float64, 0 where pruned."""
    squares = (weight.double() * mask).square().flatten()
    ascending, order = squares.sort(stable=True)
    remaining = ascending.flip(0).cumsum(0).flip(0)
    shares = torch.where(ascending > 0, ascending / torch.where(ascending > 0, remaining, 1.0), 0.0)
    return torch.empty_like(squares).scatter_(0, order, shares).view_as(weight)


def layerwise(candidates: Candidates) -> Scores:
    """LAMP: a weight's square as a share of the sum of squares that its layer has left without all smaller weights."""
    return {name: _importance(weight, candidates.masks[name]) for name, weight in candidates.current.items()}


def _graph_sample(candidates: Candidates) -> tuple[Tensor, Tensor]:
    images, labels = candidates.flow_sample
    return images[:GRAPH_IMAGES], labels[:GRAPH_IMAGES]


def information_flow(candidates: Candidates) -> Scores:
    """How far the correlations of consecutive layers move when the weight goes."""
    images, _ = _graph_sample(candidates)
    return information_saliency(candidates.networks("current"), images)


def gradient_flow(candidates: Candidates) -> Scores:
    """How far the norms of the layers' gradients move when the weight goes."""
    return gradient_saliency(candidates.networks("current"), *_graph_sample(candidates), candidates.masks)


SCORES: dict[str, Callable[[Candidates], Scores]] = {
    "magnitude": magnitude,
    "synaptic": synaptic,
    "layerwise": layerwise,
    "information_flow": information_flow,
    "gradient_flow": gradient_flow,
}


ON_THE_SAMPLE = ("synaptic", "information_flow", "gradient_flow")


class ScoredSettings(MethodSettings):
    """The settings of a method whose amount goes by any score of single weights, lowest first."""

    score: Literal["magnitude", "synaptic", "layerwise", "information_flow", "gradient_flow"] = Field(
        description="which weights go first, the lowest: magnitude | synaptic (|w dL/dw|) | layerwise (LAMP) | "
        "information_flow | gradient_flow (what the removal does to the flow Phi, to first order)"
    )

    @property
    def score_of(self) -> Callable[[Candidates], Scores]:
        return SCORES[self.score]

    @property
    def held_against(self) -> tuple[str, ...]:
        return (*super().held_against, *(["sample"] if self.score in ON_THE_SAMPLE else []))

    def misfit(self, network: str, channels: int) -> str | None:
        if self.score == "information_flow" and network in SINGLE_LAYER:
            return f"scores by the flow between two layers, and {network} has one layer"
        return super().misfit(network, channels)
