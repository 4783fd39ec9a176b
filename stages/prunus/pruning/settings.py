"""The settings that methods share, block by block of params.yaml."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from prunus.pruning.candidates import Retraining
from prunus.sparsity import Amount, FractionAmount, GiniAmount, HoyerAmount, PQAmount
from prunus.study.catalogue import SINGLE_LAYER
from prunus.study.schema import AboveZero, NonNegative, Positive, PositiveFraction
from prunus.study.section import OnlyWith, Section, optional
from prunus.training.stopping import FixedEpochs, Plateau, StopRule


class MethodSettings(Section):
    """The settings every method has."""

    rewind: Literal["initial", "warmup", "trained", "none"] = Field(
        description="where surviving weights restart: initial (as drawn), warmup (after warmup_steps: late rewinding, "
        "the first warmup_steps of the epochs are not trained again), trained (dense) or none (they go on from where "
        "they are: fine-tuning); biases and batch norm, statistics included, do the same"
    )

    @property
    def prunes_channels(self) -> bool:
        return False

    @property
    def held_against(self) -> tuple[str, ...]:
        """The measurements of the dense network that the method uses, as keys of ``study.reference``: a change of any
        other retrains none of its chains."""
        return ("warmup",) if self.rewind == "warmup" else ()

    def misfit(self, network: str, channels: int) -> str | None:
        """Why this method makes no sense on the network of that catalogue name for images with ``channels``, or
        None."""
        if self.prunes_channels and network in SINGLE_LAYER:
            return f"prunes channels between two layers, and {network} has one layer"
        return None


class ChannelSettings(MethodSettings):
    """The settings of a method that always removes whole channels."""

    @property
    def prunes_channels(self) -> bool:
        return True


class StructureSettings(MethodSettings):
    """The settings of a method that can remove single weights or whole channels."""

    structure: Literal["weight", "channel"] = Field(
        description="what goes: weight (single weights) or channel (units, filters, attention heads, with all that is "
        "coupled)"
    )

    @property
    def prunes_channels(self) -> bool:
        return self.structure == "channel"


class FixedEpochsSettings(Section):
    epochs: Positive = Field(description="of every retraining")

    def stop_rule(self, retraining: Retraining) -> StopRule:
        return FixedEpochs(self.epochs)


class StopSettings(Section):
    """Retraining for ``epochs``, or until validation accuracy no longer improves and for at most so many."""

    stop: Literal["fixed", "plateau"] = Field(
        description="when retraining ends: fixed (after `epochs`) | plateau (after `patience` epochs in a row without "
        "a better validation accuracy, at the latest after `epochs`; the last epoch's weights are kept)"
    )
    epochs: Positive = Field(description="of every retraining; with stop: plateau the most there can be")
    patience: Annotated[Positive, OnlyWith("stop", "plateau")] = optional(
        "epochs in a row without a better validation accuracy after which retraining ends; not there with stop: fixed"
    )

    def stop_rule(self, retraining: Retraining) -> StopRule:
        return FixedEpochs(self.epochs) if self.stop == "fixed" else Plateau(self.patience, self.epochs)


class ScopedSettings(MethodSettings):
    scope: Literal["neuron", "layer", "global"] = Field(
        description="what the amount and the threshold are computed on: neuron (each output unit), layer or global"
    )


class FractionSettings(ScopedSettings):
    """A fixed share of what is alive goes every iteration: (1 - fraction)^t of every group is left after t."""

    fraction: PositiveFraction = Field(
        description="share of what is left that goes every iteration: after t of them (1 - fraction)^t of every group "
        "of the scope is left, rounded up to whole weights or channels"
    )

    @property
    def amount(self) -> Amount:
        return FractionAmount(self.fraction)


class PQSettings(ScopedSettings):
    """SAP's amount: the count that the PQ index allows (Algorithm 1 of arXiv 2302.05601), or another index does.

    It is an index of the weights' magnitudes, whatever score says which of them go.
    """

    index: Literal["pq", "gini", "hoyer"] = Field(
        description="whose share goes: pq (SAP's) | gini | hoyer (that index of the magnitudes, which has no p, q, eta)"
    )
    p: Annotated[AboveZero, OnlyWith("index", "pq")] = optional("the lower norm of the PQ index, below q")
    q: Annotated[AboveZero, OnlyWith("index", "pq")] = optional("the upper norm of the PQ index")
    eta: Annotated[NonNegative, OnlyWith("index", "pq")] = optional(
        "how much of the sum of |w|^p may be lost, as a share of what is kept: more prunes more"
    )
    gamma: NonNegative = Field(description="factor on the share that the index says can go: more prunes more")
    beta: PositiveFraction = Field(description="the largest share that goes in one iteration")

    @model_validator(mode="after")
    def _p_below_q(self):
        if self.index == "pq" and not self.p < self.q:
            raise ValueError(f"must have p < q, got p: {self.p}, q: {self.q}")
        return self

    @property
    def amount(self) -> Amount:
        if self.index == "pq":
            return PQAmount(self.p, self.q, self.eta, self.gamma, self.beta)
        return (GiniAmount if self.index == "gini" else HoyerAmount)(self.gamma, self.beta)
