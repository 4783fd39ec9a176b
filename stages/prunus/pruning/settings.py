"""The settings that methods share, block by block of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from prunus.pruning.candidates import Retraining
from prunus.sparsity import Amount, FractionAmount, GiniAmount, HoyerAmount, PQAmount
from prunus.study.catalogue import SINGLE_LAYER
from prunus.study.schema import NonNegative, Positive, PositiveFraction, Section
from prunus.training.stopping import FixedEpochs, Plateau, StopRule


class MethodSettings(Section):
    """The settings every method has."""

    rewind: Literal["initial", "warmup", "trained", "none"]

    @property
    def prunes_channels(self) -> bool:
        return False

    @property
    def held_against(self) -> tuple[str, ...]:
        """What the method looks at of what was measured of the dense network, as keys of ``study.reference``: a change
        of anything else there retrains none of its chains."""
        return ("warmup",) if self.rewind == "warmup" else ()

    def misfit(self, network: str, channels: int) -> str | None:
        """Why this method makes no sense on a network of catalogue name for images of so many channels, or None."""
        if self.prunes_channels and network in SINGLE_LAYER:
            return f"prunes channels between two layers, and {network} has one layer"
        return None


class ChannelSettings(MethodSettings):
    """The settings of a method that removes whole channels, whatever else it is told."""

    @property
    def prunes_channels(self) -> bool:
        return True


class StructureSettings(MethodSettings):
    """The settings of a method that can remove single weights or whole channels."""

    structure: Literal["weight", "channel"]

    @property
    def prunes_channels(self) -> bool:
        return self.structure == "channel"


class FixedEpochsSettings(Section):
    epochs: Positive

    def stop_rule(self, retraining: Retraining) -> StopRule:
        return FixedEpochs(self.epochs)


class StopSettings(Section):
    """Retraining for ``epochs``, or until validation accuracy no longer improves and for at most so many."""

    stop: Literal["fixed", "plateau"]
    epochs: Positive
    patience: Positive

    def stop_rule(self, retraining: Retraining) -> StopRule:
        return FixedEpochs(self.epochs) if self.stop == "fixed" else Plateau(self.patience, self.epochs)


class ScopedSettings(MethodSettings):
    scope: Literal["neuron", "layer", "global"]


class FractionSettings(ScopedSettings):
    """A fixed share of what is alive goes every iteration: (1 - fraction)^t of every group is left after t."""

    fraction: PositiveFraction

    @property
    def amount(self) -> Amount:
        return FractionAmount(self.fraction)


class PQSettings(ScopedSettings):
    """SAP's amount: the count that the PQ index allows (Algorithm 1 of arXiv 2302.05601), or another index does.

    It is an index of the weights' magnitudes, whatever score says which of them go.
    """

    index: Literal["pq", "gini", "hoyer"]
    p: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    q: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    eta: NonNegative
    gamma: NonNegative
    beta: PositiveFraction

    @model_validator(mode="after")
    def _p_below_q(self):
        if not self.p < self.q:
            raise ValueError(f"must have p < q, got p: {self.p}, q: {self.q}")
        return self

    @property
    def amount(self) -> Amount:
        if self.index == "pq":
            return PQAmount(self.p, self.q, self.eta, self.gamma, self.beta)
        return (GiniAmount if self.index == "gini" else HoyerAmount)(self.gamma, self.beta)
