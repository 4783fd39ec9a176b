"""What a pruning method is made of: a score, an amount, a stop rule and a rewinding point.

A method file under ``methods/`` holds ``Settings`` (its block of params.yaml, validated) and ``recipe(settings)``,
which composes a ``Recipe`` from the parts here or from its own.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from prunus import channels, training
from prunus import masks as masking
from prunus.catalogue import SINGLE_LAYER
from prunus.channels import Group
from prunus.datasets import Dataset
from prunus.masks import Masks
from prunus.params import NonNegative, Positive, PositiveFraction, Section
from prunus.sparsity import Amount, FractionAmount, GiniAmount, HoyerAmount, PQAmount
from prunus.stopping import FixedEpochs, Plateau, StopRule

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Candidates:
    """What a score may look at.

    ``network``: as retrained last. ``masks``: who is alive. ``iteration``: t, from 1. ``dataset``: train and
    validation split on the device. ``seed``: fixes every random choice of the method, the same for all iterations of a
    chain. ``states``: the dense network's ``state_dict`` at a point: initial, warmup or trained. ``flow_sample``: the
    images Phi* was measured on, [N, C, H, W] as the network takes them, and their labels [N]; None where nobody asks.
    """

    network: nn.Module
    masks: Masks
    iteration: int
    dataset: Dataset
    seed: int
    states: Callable[[str], Weights]
    flow_sample: tuple[Tensor, Tensor] | None = None

    @property
    def current(self) -> Weights:
        """The prunable weights by name, as retrained last."""
        return {name: weight.detach() for name, weight in masking.prunable(self.network).items()}

    @property
    def dense(self) -> Weights:
        """The prunable weights by name, as trained dense."""
        state = self.states("trained")
        return {name: state[name] for name in masking.prunable(self.network)}

    def networks(self, point: str) -> nn.Module:
        """A new network in eval mode with the weights of ``point``, initial, warmup, trained or current, pruned ones
        at zero."""
        network = copy.deepcopy(self.network)
        if point != "current":
            network.load_state_dict(self.states(point))
        masking.apply(network, self.masks)
        return network.eval()

    @cached_property
    def groups(self) -> list[Group]:
        """The network's coupled channel groups, in forward order."""
        return channels.groups(self.network, self.dataset.shape)

    def at(self, masks: Masks) -> "Candidates":
        """The same with other masks."""
        other = replace(self, masks=masks)
        vars(other).update({name: value for name, value in vars(self).items() if name == "groups"})
        return other

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        """``n`` training images as the network takes them and their labels, the same at every call."""
        subset = self.dataset.sample("train", n, self.seed)
        return self.dataset.normalise(subset.images), subset.labels

    def sample_per_class(self, n: int) -> tuple[Tensor, Tensor]:
        """``n`` training images of every class (all where there are fewer) and their labels, the same at every call."""
        whole = self.dataset.splits["train"]
        order = torch.randperm(len(whole.labels), generator=torch.Generator().manual_seed(self.seed))
        labels = whole.labels.cpu()[order]
        chosen = torch.cat([order[labels == label][:n] for label in range(self.dataset.n_classes)])
        subset = whole[chosen.to(whole.labels.device)]
        return self.dataset.normalise(subset.images), subset.labels


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


class Sparsifier(training.Sparsifier, Protocol):
    """Pruning while training: what the loop calls, and at the end what has been set to zero.

    ``masks`` are the masks once training has ended, nested in those it was made with.
    """

    def masks(self) -> Masks: ...


@dataclass(frozen=True)
class Recipe:
    """One pruning method.

    ``score`` low = goes first; ``amount`` how many of a group of ``scope`` go. ``structure`` weight: a score is a
    tensor per prunable weight; channel: a vector per channel group, and a channel takes its whole group along.
    ``steps``: how often the score is computed anew on the way to the amount, the density falling exponentially (scope
    global only). ``select`` stands for score, amount and scope where a method chooses its masks in another way; it may
    change the surviving weights of the network it is given, which count if ``rewind`` is none. ``sparsify`` is for
    methods that prune while they train: the masks are the sparsifier's. ``norms_stay``: a rewind leaves the scales and
    statistics of norms as the last retraining left them (InCoP's code).
    """

    score: Callable[[Candidates], Weights] | None
    amount: Amount | None
    scope: str | None
    rewind: str
    stop: Callable[[Retraining], StopRule]
    structure: str = "weight"
    steps: int = 1
    select: Callable[[Candidates, nn.Module], Masks] | None = None
    sparsify: Callable[[Candidates, nn.Module], Sparsifier] | None = None
    norms_stay: bool = False

    def restart(self, network: nn.Module, state: Weights) -> None:
        """Put ``network`` back to ``state``, a ``state_dict`` of the dense network; pruned weights are not masked."""
        if self.norms_stay:
            weights = masking.prunable(network)
            state = {name: state[name] for name in state if name in weights or name.endswith("bias")}
        network.load_state_dict(state, strict=not self.norms_stay)

    def masks(self, candidates: Candidates) -> Masks:
        """The masks of the next iteration, nested in those of ``candidates``."""
        if self.select is not None:
            return self.select(candidates, candidates.network)
        if self.score is None:
            return candidates.masks
        if self.structure == "weight":
            alive, expand, values = candidates.masks, lambda alive: alive, candidates.current
        else:
            alive = channels.alive(candidates.groups, candidates.masks)
            expand = lambda alive: channels.expand(candidates.groups, alive, candidates.masks)  # noqa: E731
            values = {name: mask.float() for name, mask in alive.items()}
        for amount in self._amounts(alive):
            scores = self.score(candidates.at(expand(alive)))
            with torch.no_grad():
                alive = masking.prune(scores, values, alive, self.scope, amount)
        return expand(alive)

    def _amounts(self, alive: Masks) -> list[Amount]:
        """The amount of every scoring step."""
        if self.steps == 1:
            return [self.amount]
        before = masking.alive_count(alive)
        goes = self.amount(torch.ones(before))
        left = [round(before * ((before - goes) / before) ** (step / self.steps)) for step in range(self.steps + 1)]
        return [lambda values, count=count: values.numel() - count for count in left[1:]]


class MethodSettings(Section):
    """The settings every method has."""

    rewind: Literal["initial", "warmup", "trained", "none"]

    @property
    def prunes_channels(self) -> bool:
        return False

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

    def stop(self, retraining: Retraining) -> StopRule:
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
    """A fixed share of what is alive goes every iteration."""

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


def dense_magnitude(candidates: Candidates) -> Weights:
    """|w| of the dense trained weights, whatever retraining made of them since."""
    return {name: weight.abs() for name, weight in candidates.dense.items()}
