"""ProsPr, prospect pruning: what a weight at initialisation will mean for the loss after a few training steps (Alizadeh
et al., ICLR 2022, arXiv 2202.08132).

Masks c = 1 multiply the weights as drawn, `inner_steps` steps of plain SGD at `inner_rate` follow, each on `samples`
other training images, and the score is |dL/dc| of the loss after them on yet other images: the gradient goes through
the steps (mil-ad/prospr, its command line's defaults of 3 steps at rate 0.1 without momentum). No inner step is SNIP.
The public code draws the batches anew or not by a setting; here every step has its own, of fewer images where the
training set holds too few.

`structure: channel` has one c per channel, on its incoming weights; biases have none. Weights that a mask has already
pruned stay zero in the inner steps.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from prunus import channels
from prunus.masks import Masks, prunable
from prunus.pruning.candidates import Candidates, Scores
from prunus.pruning.gradients import IteratedSettings, as_drawn, iterated, refuse_one_image
from prunus.pruning.recipe import Recipe
from prunus.run.errors import StageError
from prunus.study.schema import Natural, Positive


class Settings(IteratedSettings):
    """At initialisation: |dL/dc| after a few training steps, through them."""

    samples: Positive = Field(description="training images of each step, and of the loss after them")
    inner_steps: Natural = Field(description="training steps, of plain SGD; 0 is SNIP")
    inner_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(description="their learning rate")


def meta_gradients(network: nn.Module, masks: Masks, batches: list[tuple[Tensor, Tensor]], inner_rate: float) -> Scores:
    """dL/dc by parameter name, with its sign: one inner step on each of ``batches`` but the last, the loss on that.

    ``StageError`` where the inner steps lead to numbers that are not finite.
    """
    losses = []
    drawn = {name: parameter.detach() for name, parameter in network.named_parameters()}
    factors = {name: torch.ones_like(weight, requires_grad=True) for name, weight in prunable(network).items()}
    trained = {
        name: value * factors[name] if name in factors else value.requires_grad_() for name, value in drawn.items()
    }
    for images, labels in batches[:-1]:
        loss = F.cross_entropy(functional_call(network, trained, (images,)), labels)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(trained.values()), create_graph=True)
        trained = {
            name: value - inner_rate * (gradient * masks[name] if name in masks else gradient)
            for (name, value), gradient in zip(trained.items(), gradients, strict=True)
        }
    images, labels = batches[-1]
    loss = F.cross_entropy(functional_call(network, trained, (images,)), labels)
    losses.append(loss.item())
    result = dict(zip(factors, torch.autograd.grad(loss, list(factors.values())), strict=True))
    finite = math.isfinite(losses[-1]) and all(bool(result[name][masks[name]].isfinite().all()) for name in result)
    if not finite and len(losses) > 1 and math.isfinite(losses[0]):
        values = ", ".join(f"{loss:.3g}" for loss in losses)
        raise StageError(
            f"methods.prospr.inner_rate: {inner_rate} leads to scores that are not finite: the losses before and after "
            f"the {len(losses) - 1} inner steps are {values}; lower it",
            "not_finite",
        )
    return result


def recipe(settings: Settings) -> Recipe:
    def score(candidates: Candidates) -> Scores:
        parts = settings.inner_steps + 1
        images, labels = candidates.sample(settings.samples * parts)
        if len(images) < parts:
            raise StageError(
                f"methods.prospr.inner_steps: {settings.inner_steps} steps and the loss after them need {parts} "
                f"images, there are {len(images)} to train on; at most {len(images) - 1}"
            )
        batches = list(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True))
        network = as_drawn(candidates)
        if settings.samples == 1:
            refuse_one_image(network, images[:1], "methods.prospr.samples: 1")
        setting = f"methods.prospr.inner_steps: {settings.inner_steps} with {len(images)} images to train on"
        refuse_one_image(network, batches[-1][0], setting, "take fewer steps")
        signed = meta_gradients(network, candidates.masks, batches, settings.inner_rate)
        if settings.structure == "channel":
            signed = channels.sums(candidates.groups, signed)
        return {name: gradient.abs() for name, gradient in signed.items()}

    return iterated(settings, score)
