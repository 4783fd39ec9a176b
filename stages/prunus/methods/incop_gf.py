"""InCoP-GF: SAP's masks, retraining stopped by gradient flow (Gharatappeh and Yasaei Sekeh, arXiv 2501.15592).

The flow is the L2 norm per layer of the masked gradient of the mean loss over the subset Phi* was measured on, from a
real backward pass, the same statistic for the reference and the sparse network.

`reference_quirks` computes what the authors' code does instead (activation.py, network.py): the norms of the stale
gradient of the last training mini-batch against the means of the dense training's last one, both times B / (B - 1);
the second stop, test accuracy at least the dense network's, asked whenever the flow is; and a rewind that leaves batch
norm's scale and statistics as retrained. To be compared with, never to be reported.
"""

import torch
from pydantic import Field

from prunus.flow import gradient_flow, stale_gradient_flow
from prunus.pruning.candidates import Retraining
from prunus.pruning.recipe import Recipe
from prunus.pruning.scores import ScoredSettings
from prunus.pruning.settings import PQSettings
from prunus.training.stopping import FlowSettings, FlowStop


class Settings(PQSettings, ScoredSettings, FlowSettings):
    """The same with gradient flow: SAP's amount, and retraining stops when it is back near Phi*."""

    reference_quirks: bool = Field(
        description="true: as for incop_if, and a stale gradient, mean against norm, B-1. To be compared with, "
        "not to be reported"
    )

    @property
    def held_against(self) -> tuple[str, ...]:
        return (*super().held_against, "sample", "quirks" if self.reference_quirks else "gradient")


def recipe(settings: Settings) -> Recipe:
    def as_defined(retraining: Retraining) -> FlowStop:
        return FlowStop(
            lambda network: gradient_flow(network, retraining.flow_images, retraining.flow_labels, retraining.masks),
            torch.tensor(retraining.reference["gradient"], dtype=torch.float64),
            settings,
            sample=(retraining.flow_images, retraining.flow_labels),
        )

    def as_published(retraining: Retraining) -> FlowStop:
        return FlowStop(
            lambda network: stale_gradient_flow(network, retraining.batches)["norm"],
            torch.tensor(retraining.reference["quirks"]["gradient_mean"], dtype=torch.float64),
            settings,
            retraining.as_dense(),
        )

    stop = as_published if settings.reference_quirks else as_defined
    return Recipe(
        settings.score_of,
        settings.amount,
        settings.scope,
        settings.rewind,
        stop,
        norms_stay=settings.reference_quirks,
    )
