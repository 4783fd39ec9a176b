"""InCoP-IF: SAP's masks, retraining stopped by information flow (Gharatappeh and Yasaei Sekeh, arXiv 2501.15592).

After every `every` epochs the connectivity of consecutive layers is measured on the subset Phi* was measured on;
retraining ends when its distance to Phi* is at most epsilon. Default: absolute correlation and relative distance,
because the published signed mean nearly cancels and is met by any network.

`reference_quirks` does two things more of the authors' code (prune.py): the second stop, test accuracy at least the
dense network's, asked whenever the flow is; and a rewind that leaves batch norm's scale and statistics as retrained. It
looks at the test set, as they do, and exists to be compared with, never to be reported as a result. They use the best
test accuracy of the dense training, here it is that of its last epoch.
"""

from typing import Literal

import torch
from pydantic import Field

from prunus.flow import information_flow
from prunus.pruning.candidates import Retraining
from prunus.pruning.recipe import Recipe
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
    def stop(retraining: Retraining) -> FlowStop:
        return FlowStop(
            lambda network: information_flow(network, retraining.flow_images, settings.correlation),
            torch.tensor(retraining.reference[settings.reference], dtype=torch.float64),
            settings,
            retraining.as_dense() if settings.reference_quirks else None,
            (retraining.flow_images,),
        )

    return Recipe(
        settings.score_of,
        settings.amount,
        settings.scope,
        settings.rewind,
        stop,
        norms_stay=settings.reference_quirks,
    )
