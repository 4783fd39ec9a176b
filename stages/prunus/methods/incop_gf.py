"""InCoP-GF: SAP's masks, retraining stopped by gradient flow (Gharatappeh and Yasaei Sekeh, arXiv 2501.15592).

Algorithm 1 as in incop_if.py, with another flow: the L2 norm per layer of the masked gradient of the mean loss over the
subset Phi* was measured on, from a real backward pass, the same statistic for the reference and the sparse network.

`reference_quirks` computes what the authors' code does instead (activation.py, network.py): the norms of the stale
gradient of the last training mini-batch against the means of the dense training's last one, both times B / (B - 1); the
second stop, test accuracy at least the dense network's, checked whenever the flow is; and a rewind that leaves batch
norm's scale and statistics as retrained. It exists to be compared with, never to be reported.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from prunus.flow import gradient_flow, stale_gradient_flow
from prunus.pruning.candidates import Retraining
from prunus.pruning.ranked import Ranked
from prunus.pruning.recipe import Recipe, Rewind
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
        sample = retraining.flow_images, retraining.flow_labels

        def phi(network: nn.Module) -> Tensor:
            return gradient_flow(network, *sample, retraining.masks)

        phi_star = torch.tensor(retraining.reference["gradient"], dtype=torch.float64)
        return FlowStop(phi, phi_star, settings, sample=sample)

    def as_published(retraining: Retraining) -> FlowStop:
        def phi(network: nn.Module) -> Tensor:
            return stale_gradient_flow(network, retraining.batches)["norm"]

        phi_star = torch.tensor(retraining.reference["quirks"]["gradient_mean"], dtype=torch.float64)
        return FlowStop(phi, phi_star, settings, accuracy_reached=retraining.as_dense())

    return Recipe(
        prune=Ranked(score=settings.score_of, amount=settings.amount, scope=settings.scope),
        rewind=Rewind(settings.rewind, norms_stay=settings.reference_quirks),
        retrain=as_published if settings.reference_quirks else as_defined,
    )
