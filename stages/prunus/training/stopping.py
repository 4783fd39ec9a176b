"""When a retraining ends: after a fixed number of epochs, when validation accuracy no longer improves, or when flow is
back near the dense network's.

A stop rule is asked after every epoch and answers with a ``Look``. The flow rule is InCoP's (arXiv 2501.15592):
stop when the distance of the sparse network's flow to Phi* is at most epsilon, on a fixed subset of the training
images, never on test data.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from prunus.flow import finite, flow_distance
from prunus.run.errors import StageError
from prunus.study.schema import NonNegative, Positive
from prunus.study.section import OnlyWith, Section, optional


@dataclass(frozen=True)
class Look:
    """What a stop rule saw: ``reason`` to stop (None: go on) and the distance to Phi* where it was measured."""

    reason: Literal["fixed", "plateau", "flow", "accuracy", "cap"] | None
    distance: float | None = None


class StopRule(Protocol):
    """Asked after every ``epoch`` of one retraining, with the validation accuracies after it and all before.

    Epochs count from 1, and from step 0 of the schedule: a retraining that begins at a later step lacks the first
    ones, so it has fewer accuracies. ``max_epochs`` is the last epoch of the schedule.

    It remembers nothing, so that a retraining can go on in another process.
    """

    max_epochs: int
    epsilon: float | None

    def after_epoch(self, epoch: int, network: nn.Module, accuracies: list[float]) -> Look: ...


@dataclass(frozen=True)
class FixedEpochs:
    """Exactly ``max_epochs`` epochs."""

    max_epochs: int
    epsilon: float | None = None

    def after_epoch(self, epoch: int, network: nn.Module, accuracies: list[float]) -> Look:
        return Look("fixed" if epoch >= self.max_epochs else None)


@dataclass(frozen=True)
class Plateau:
    """Stop after ``patience`` epochs in a row with no validation accuracy above the best so far, or at ``max_epochs``.

    The network stays as the last epoch left it, not as it was at its best.
    """

    patience: int
    max_epochs: int
    epsilon: float | None = None

    def after_epoch(self, epoch: int, network: nn.Module, accuracies: list[float]) -> Look:
        best = accuracies.index(max(accuracies)) + 1
        if len(accuracies) - best >= self.patience:
            return Look("plateau")
        return Look("cap" if epoch >= self.max_epochs else None)


class FlowSettings(Section):
    """The settings of a flow stop rule."""

    epsilon: NonNegative = Field(description="largest distance to Phi* at which retraining stops")
    metric: Literal["l2", "cosine"] = Field(
        description="the distance: l2 | cosine (which has no scale, and no key `relative`)"
    )
    relative: Annotated[bool, OnlyWith("metric", "l2")] = optional(
        "l2 distance divided by the norm of Phi*; false: as it is"
    )
    every: Positive = Field(description="epochs between two looks at the flow")
    max_epochs: Positive = Field(description="the most epochs of a retraining, however far from Phi*")
    reference_quirks: bool = Field(
        description="true: as the authors' code also stop on test accuracy, asked when the flow is, and rewind weights "
        "and biases alone: batch norm's scale and statistics stay as retrained. To be compared with, not to be reported"
    )


@dataclass(frozen=True)
class FlowStop:
    """Stop once the flow that ``measure`` finds is within ``epsilon`` of ``reference``, or at ``max_epochs``.

    ``accuracy_reached``, where given, is the second stop of the authors' code: it is asked after the flow and as often,
    because their unit of training ends with both. ``sample``: what ``measure`` looks at, the images and for gradients
    their labels; it serves to say why a flow is not finite. Raises ``StageError`` where the flow is not finite, or the
    reference is zero and the distance relative to it.
    """

    measure: Callable[[nn.Module], Tensor]
    reference: Tensor
    settings: FlowSettings
    accuracy_reached: Callable[[nn.Module], bool] | None = None
    sample: tuple[Tensor, ...] = ()

    @property
    def max_epochs(self) -> int:
        return self.settings.max_epochs

    @property
    def epsilon(self) -> float:
        return self.settings.epsilon

    def _distance(self, network: nn.Module) -> float:
        flow = finite(self.measure(network), "the flow of the retrained network", network, *self.sample)
        if flow.shape != self.reference.shape:
            raise StageError(
                f"Phi* has {len(self.reference)} entries and the flow of this network {len(flow)}: Phi* is another "
                "network's; `python stages/reference_flow.py` makes it anew"
            )
        distance = flow_distance(flow, self.reference, self.settings.metric)
        if not self.settings.relative:  # None for the cosine distance
            return distance
        if not (norm := torch.linalg.vector_norm(self.reference).item()):
            raise StageError("Phi* is 0 in every entry, so no relative distance is defined; set relative: false")
        return distance / norm

    def after_epoch(self, epoch: int, network: nn.Module, accuracies: list[float]) -> Look:
        distance = None
        if epoch % self.settings.every == 0:
            distance = self._distance(network)
            if distance <= self.settings.epsilon:
                return Look("flow", distance)
            if self.accuracy_reached is not None and self.accuracy_reached(network):
                return Look("accuracy", distance)
        return Look("cap" if epoch >= self.settings.max_epochs else None, distance)
