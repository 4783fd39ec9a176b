"""IterGraSP: weights whose removal hurts the gradient flow least go, at initialisation, computed again while pruning.

GraSP (Wang, Zhang and Grosse, ICLR 2020, arXiv 2002.07376): S = -w (H g), g the gradient of the mean loss with logits
divided by `temperature` and H the Hessian, is half of what removing w adds to g^T g, to first order; the largest S go.
The score here is +w (H g), lowest first. Which iterative form MIPP compares with is unconfirmed; this one follows the
Synaptic-Flow repository, GraSP scored again on an exponential schedule, not naver/force's GRASP-It, whose score is g^2.
Departures from alecwangcq/GraSP: linear layers keep their initialisation for scoring, the sample is one batch, not two
halves. `steps: 1` is GraSP.

`structure: channel` takes the L1 norm of the scores of a node's weights, as MIPP's comparison does (arXiv 2411.00147,
section 5): the channels whose weights mean least in either direction go, not those whose removal as a whole helps.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from prunus.masks import Masks, prunable
from prunus.networks.inspect import loss_gradients
from prunus.pruning.candidates import Candidates, Scores
from prunus.pruning.gradients import IteratedSettings, as_drawn, iterated, structured
from prunus.pruning.recipe import Recipe
from prunus.run.errors import StageError
from prunus.study.schema import Positive


class Settings(IteratedSettings):
    """At initialisation: what the removal does to the gradient's norm."""

    samples_per_class: Positive = Field(description="training images of each class")
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        description="by which the logits are divided before the loss is computed"
    )


def preserved_flow(
    network: nn.Module, images: Tensor, labels: Tensor, temperature: float, masks: Masks | None = None
) -> Scores:
    """w (H g) by parameter name: low where the removal of w lowers g^T g least, or raises it.

    ``images`` [N, C, H, W], ``labels`` [N]; ``masks`` by parameter name, None = all alive, of a ``network`` whose
    pruned weights are zero: they have no gradient in g.
    """
    weights = prunable(network)
    gradients = loss_gradients(network, images, labels, temperature=temperature, graph=True)
    if masks is not None:
        gradients = {name: gradient * masks[name] for name, gradient in gradients.items()}
    flow = sum((gradient.detach() * gradient).sum() for gradient in gradients.values())
    products = torch.autograd.grad(flow, list(weights.values()))
    return {
        name: (weight * product).detach() for (name, weight), product in zip(weights.items(), products, strict=True)
    }


def gradient_norm(network: nn.Module, images: Tensor, labels: Tensor, temperature: float) -> float:
    gradients = loss_gradients(network, images, labels, temperature=temperature)
    return torch.stack([gradient.double().norm() for gradient in gradients.values()]).norm().item()


def recipe(settings: Settings) -> Recipe:
    def score(candidates: Candidates) -> Scores:
        sample = candidates.sample_per_class(settings.samples_per_class)
        network = as_drawn(candidates)
        scores = preserved_flow(network, *sample, settings.temperature, candidates.masks)
        if settings.temperature < 1 and not all(bool(score.isfinite().all()) for score in scores.values()):
            norms = [gradient_norm(network, *sample, temperature) for temperature in (settings.temperature, 1.0)]
            raise StageError(
                f"methods.iter_grasp.temperature: {settings.temperature} leads to scores that are not finite: the norm "
                f"of the gradient is {norms[0]:.2g}, and {norms[1]:.2g} at a temperature of 1; raise it",
                "not_finite",
            )
        return structured(settings, candidates, scores)

    return iterated(settings, score)
