"""InCoP-IF: SAP's masks, retraining stopped by information flow (Gharatappeh and Yasaei Sekeh, arXiv 2501.15592).

Algorithm 1, for the trained dense network w* and its flow Phi*; iteration t:

1. Of the alive weights as many go as SAP's PQ index says, smallest magnitude first.
2. The survivors are reset to their values in w*.
3. They are trained for an epoch (here: `every` epochs).
4. Phi, the flow of the network as it is now, is measured on the images Phi* was measured on: the connectivity of
   consecutive layers.
5. If ||Phi - Phi*|| <= epsilon, or after `max_epochs`, retraining ends; else it goes on at 3.

Default: absolute correlation and relative distance, because the published signed mean nearly cancels and is met by any
network.

`reference_quirks` does two things more of the authors' code (prune.py): the second stop, test accuracy at least the
dense network's, checked whenever the flow is; and a rewind that leaves batch norm's scale and statistics as retrained.
It looks at the test set, as they do, and exists to be compared with, never to be reported as a result. They use the
best test accuracy of the dense training, here it is that of its last epoch.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from prunus.flow import information_flow
from prunus.pruning.candidates import Retraining
from prunus.pruning.ranked import Ranked
from prunus.pruning.recipe import Recipe, Rewind
from prunus.pruning.scores import ScoredSettings
from prunus.pruning.settings import PQSettings
from prunus.study.catalogue import SINGLE_LAYER
from prunus.training.stopping import FlowSettings, FlowStop


class Settings(PQSettings, ScoredSettings, FlowSettings):
    """SAP's amount; retraining stops when information flow is back near Phi*."""

    correlation: Literal["absolute", "signed"] = Field(description="absolute | signed (as published; nearly cancels)")

    @property
    def held_against(self) -> tuple[str, ...]:
        return (*super().held_against, "sample", self.reference)

    @property
    def reference(self) -> str:
        return "information" if self.correlation == "absolute" else "information_signed"

    def misfit(self, network: str, channels: int) -> str | None:
        if network in SINGLE_LAYER:
            return f"looks at the flow between two layers, and {network} has one layer"
        return super().misfit(network, channels)


def recipe(settings: Settings) -> Recipe:
    def until_the_flow_is_back(retraining: Retraining) -> FlowStop:
        def phi(network: nn.Module) -> Tensor:
            return information_flow(network, retraining.flow_images, settings.correlation)

        quirks = {"accuracy_reached": retraining.as_dense()} if settings.reference_quirks else {}
        phi_star = torch.tensor(retraining.reference[settings.reference], dtype=torch.float64)
        return FlowStop(phi, phi_star, settings, sample=(retraining.flow_images,), **quirks)

    return Recipe(
        prune=Ranked(score=settings.score_of, amount=settings.amount, scope=settings.scope),  # 1
        rewind=Rewind(settings.rewind, norms_stay=settings.reference_quirks),  # 2
        retrain=until_the_flow_is_back,  # 3 to 5
    )
