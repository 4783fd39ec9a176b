"""Iterative magnitude pruning of channels: those with the smallest incoming weights go (Li et al., ICLR 2017, arXiv
1608.08710, for filters; the structured IMP that MIPP is compared with, arXiv 2411.00147, section 5).

A channel's score is the L1 or L2 norm of the weights that write it, of all layers that do where skip connections couple
them. `normalise` makes layers comparable under one threshold: `fan_in` takes the mean over the living weights instead
of the sum (L2: root mean square), `mean` divides by the mean score of the group's living channels (Torch-Pruning's
default). Without it whole layers lie below a global threshold and are cut down to their last channel; with fan_in
they still may, as fresh weights are smaller the more of them a unit reads. Whether MIPP's comparison normalised is
unconfirmed.
"""

from typing import Literal

import torch
from pydantic import Field

from prunus import channels
from prunus.pruning.candidates import Candidates, Scores
from prunus.pruning.ranked import Ranked
from prunus.pruning.recipe import Recipe, Rewind
from prunus.pruning.settings import ChannelSettings, FixedEpochsSettings, FractionSettings


class Settings(ChannelSettings, FractionSettings, FixedEpochsSettings):
    """The channels with the smallest incoming weights go, every iteration."""

    scope: Literal["layer", "global"] = Field(
        description="what the amount and the threshold are computed on: layer (each group of channels) or global"
    )
    norm: Literal["l1", "l2"] = Field(description="of the weights that write a channel: l1 | l2")
    normalise: Literal["mean", "fan_in", "none"] = Field(
        description="what makes layers comparable: mean (divides by the mean of the group's living channels) | fan_in "
        "(the mean over a channel's weights instead of their sum) | none"
    )


def recipe(settings: Settings) -> Recipe:
    power = {"l1": 1, "l2": 2}[settings.norm]

    def score(candidates: Candidates) -> Scores:
        weights = candidates.current
        totals = channels.sums(candidates.groups, {name: weight.abs() ** power for name, weight in weights.items()})
        if settings.normalise == "fan_in":
            living = channels.sums(candidates.groups, {name: mask.float() for name, mask in candidates.masks.items()})
            totals = {name: total / living[name].clamp(min=1) for name, total in totals.items()}
        norms = {name: total ** (1 / power) for name, total in totals.items()}
        if settings.normalise == "mean":
            alive = channels.alive(candidates.groups, candidates.masks)
            norms = {
                name: norm / norm[alive[name]].mean().clamp(min=torch.finfo(norm.dtype).tiny)
                for name, norm in norms.items()
            }
        return norms

    return Recipe(
        prune=Ranked(score=score, amount=settings.amount, scope=settings.scope, structure="channel"),
        rewind=Rewind(settings.rewind),
        retrain=settings.stop_rule,
    )
