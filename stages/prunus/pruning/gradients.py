"""What the methods that score by gradients share: their settings, the network they look at, their recipe."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from prunus import channels
from prunus.masks import prunable
from prunus.networks.inspect import loss_gradients, norm_of_one_value, with_batch_statistics
from prunus.pruning.candidates import Candidates, Scores
from prunus.pruning.ranked import Ranked
from prunus.pruning.recipe import Recipe, Rewind
from prunus.pruning.settings import FixedEpochsSettings, FractionSettings, StructureSettings
from prunus.run.errors import StageError
from prunus.study.schema import Positive


class IteratedSettings(StructureSettings, FractionSettings, FixedEpochsSettings):
    """The settings of a score that is computed ``steps`` times on the way to an iteration's density.

    The density falls exponentially from step to step, with one global threshold each; a chain of iterations, which
    starts every one from the masks of the one before, is one long schedule.
    """

    scope: Literal["global"] = Field(description="what the amount and the threshold are computed on: the whole network")
    steps: Positive = Field(
        description="scorings of an iteration; the density falls exponentially from one to the next"
    )


def as_drawn(candidates: Candidates) -> nn.Module:
    """The masked network before training, its batch norm on the statistics of the batch: at initialisation it has none
    of its own, and the public implementations of SNIP and GraSP score in training mode. Dropout, which would make the
    scores random, stays off."""
    return with_batch_statistics(candidates.networks("initial"))


def refuse_one_image(network: nn.Module, images: Tensor, setting: str, advice: str = "take more") -> None:
    """Raise ``StageError`` where ``network`` normalises over a sample of one image; ``setting``: the key of
    params.yaml that leaves one, with its value."""
    if len(images) == 1 and (norm := norm_of_one_value(network, images)):
        raise StageError(
            f"{setting} leaves one image in a sample, and {norm}, which normalises over the sample, one value per "
            f"channel; {advice}"
        )


def structured(settings: StructureSettings, candidates: Candidates, scores: Scores) -> Scores:
    """``scores`` per weight, or the L1 norm of those of each channel's incoming weights (MIPP, arXiv 2411.00147, v1,
    section 5), also where scores have a sign: scores of opposite sign do not cancel."""
    if settings.structure == "weight":
        return scores
    return channels.sums(candidates.groups, {name: score.abs() for name, score in scores.items()})


def iterated(settings: IteratedSettings, score: Callable[[Candidates], Scores]) -> Recipe:
    """The recipe of a ``score`` on the settings' schedule."""
    prune = Ranked(
        score=score,
        amount=settings.amount,
        scope=settings.scope,
        structure=settings.structure,
        looks_at="initial",
        steps=settings.steps,
    )
    return Recipe(prune=prune, rewind=Rewind(settings.rewind), retrain=settings.stop_rule)


def sensitivity(network: nn.Module, images: Tensor, labels: Tensor, batch_size: int | None = None) -> Scores:
    """|w dL/dw| by parameter name, L the mean cross-entropy over ``images`` [N, C, H, W], ``labels`` [N].

    ``batch_size`` images at a time; None: all at once, as batch norm in training mode needs them.
    """
    gradients = loss_gradients(network, images, labels, batch_size)
    return {name: (weight * gradients[name]).abs().detach() for name, weight in prunable(network).items()}
