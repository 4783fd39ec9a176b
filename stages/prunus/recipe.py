"""What a pruning method is made of: a score, an amount, a stop rule and a rewinding point.

A method file under ``methods/`` holds ``Settings`` (its block of params.yaml, validated) and ``recipe(settings)``,
which composes a ``Recipe`` from the parts here or from its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from prunus import masks as masking
from prunus.datasets import Dataset
from prunus.masks import Masks
from prunus.params import NonNegative, Positive, PositiveFraction, Section
from prunus.sparsity import Amount, floor_count, prune_count
from prunus.stopping import FixedEpochs, StopRule

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Candidates:
    """What a score may look at: prunable weights by name, as retrained last (``current``) and as trained dense."""

    current: Weights
    dense: Weights


@dataclass(frozen=True)
class Retraining:
    """What a stop rule may be made from.

    ``flow_images`` [N, C, H, W] as the network takes them and ``flow_labels`` [N] are the subset Phi* was measured on,
    ``reference`` the content of reference_flow.json, ``test`` loads the test split (for `reference_quirks` alone).
    """

    masks: Masks
    batches: int
    reference: dict
    flow_images: Tensor
    flow_labels: Tensor
    test: Callable[[], Dataset]


@dataclass(frozen=True)
class Recipe:
    """One pruning method. ``score`` low = goes first; ``amount`` how many of a group of ``scope`` go."""

    score: Callable[[Candidates], Weights]
    amount: Amount
    scope: str
    rewind: str
    stop: Callable[[Retraining], StopRule]

    def masks(self, candidates: Candidates, masks: Masks) -> Masks:
        """The masks of the next iteration, nested in ``masks``."""
        with torch.no_grad():
            return masking.prune(self.score(candidates), candidates.current, masks, self.scope, self.amount)


class MethodSettings(Section):
    """The settings every method has."""

    needs_two_layers: ClassVar[bool] = False
    scope: Literal["neuron", "layer", "global"]
    rewind: Literal["initial", "warmup", "trained"]


class FixedEpochsSettings(Section):
    epochs: Positive

    def stop(self, retraining: Retraining) -> StopRule:
        return FixedEpochs(self.epochs)


class FractionSettings(MethodSettings):
    """A fixed share of what is alive goes every iteration."""

    fraction: PositiveFraction

    def amount(self, alive: Tensor) -> int:
        return floor_count(alive.numel(), self.fraction)


class PQSettings(MethodSettings):
    """SAP's amount: the count that the PQ index allows (Algorithm 1 of arXiv 2302.05601)."""

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

    def amount(self, alive: Tensor) -> int:
        return prune_count(alive, self.p, self.q, self.eta, self.gamma, self.beta)


def magnitude(candidates: Candidates) -> Weights:
    """|w| of the weights as they are after the last retraining."""
    return {name: weight.abs() for name, weight in candidates.current.items()}


def dense_magnitude(candidates: Candidates) -> Weights:
    """|w| of the dense trained weights, whatever retraining made of them since."""
    return {name: weight.abs() for name, weight in candidates.dense.items()}


def prunable_weights(network: nn.Module, state: Weights | None = None) -> Weights:
    """The prunable tensors of ``network``, or of a ``state_dict`` of it."""
    return {
        name: weight.detach() if state is None else state[name] for name, weight in masking.prunable(network).items()
    }
