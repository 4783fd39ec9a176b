"""SOSP-H: second-order structured pruning with all cross-correlations (Nonnenmacher et al., ICLR 2022, arXiv
2110.11395).

With theta_s the parameters of structure s and theta_struc those of all structures together, a channel's score is
|theta_s^T grad L| + 1/2 |theta_s^T H theta_struc|: one gradient and one Hessian-vector product give all scores. No code
was published and the formula is unconfirmed against the text. A structure is a channel with all that writes it: rows,
biases, norm scale and shift. Biases and norms of a channel that nothing reads add nothing to any score, nor to
theta_struc: the loss does not depend on them, and only the gradients of pruned weights do, whose theta is 0. L is the
mean loss over `samples` training images of the network as retrained last, in eval mode; the lowest scores of the whole
network go.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from prunus import channels
from prunus.channels.groups import Group
from prunus.pruning.candidates import Candidates, Scores
from prunus.pruning.ranked import Ranked
from prunus.pruning.recipe import Recipe, Rewind
from prunus.pruning.settings import ChannelSettings, FixedEpochsSettings, FractionSettings
from prunus.study.schema import Positive


class Settings(ChannelSettings, FractionSettings, FixedEpochsSettings):
    """Second-order sensitivity with all cross-correlations."""

    scope: Literal["global"] = Field(description="what the amount and the threshold are computed on: the whole network")
    samples: Positive = Field(description="training images")


def second_order(
    network: nn.Module, groups: list[Group], images: Tensor, labels: Tensor, batch_size: int = 256
) -> Scores:
    """The scores by group name, [channels], of ``network`` in the mode it is in."""
    names = list(dict.fromkeys(part.parameter for group in groups for part in group.writes))
    parameters = [network.get_parameter(name) for name in names]
    first, second = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(2))
    for image, label in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        loss = F.cross_entropy(network(image), label, reduction="sum") / len(images)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        along = sum((gradient * theta.detach()).sum() for gradient, theta in zip(gradients, parameters, strict=True))
        torch._foreach_add_(first, [gradient.detach() for gradient in gradients])
        torch._foreach_add_(second, torch.autograd.grad(along, parameters))

    def per_channel(products: list[Tensor]) -> Scores:
        pairs = zip(names, products, parameters, strict=True)
        # a bias is a row of one entry
        return channels.sums(groups, {name: (theta.detach() * p).reshape(len(theta), -1) for name, p, theta in pairs})

    slopes, curvatures = per_channel(first), per_channel(second)
    return {name: slopes[name].abs() + 0.5 * curvatures[name].abs() for name in slopes}


def recipe(settings: Settings) -> Recipe:
    def score(candidates: Candidates) -> Scores:
        network = candidates.networks("current")
        return second_order(network, candidates.groups, *candidates.sample(settings.samples))

    return Recipe(
        prune=Ranked(score=score, amount=settings.amount, scope=settings.scope, structure="channel"),
        rewind=Rewind(settings.rewind),
        retrain=settings.stop_rule,
    )
