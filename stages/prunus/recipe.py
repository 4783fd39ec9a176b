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
from prunus.networks.inspect import why_not_finite, with_batch_statistics
from prunus.params import NonNegative, Positive, PositiveFraction, Section
from prunus.runtime import StageError, derive_seed
from prunus.sparsity import Amount, FractionAmount, GiniAmount, HoyerAmount, PQAmount
from prunus.stopping import FixedEpochs, Plateau, StopRule

Weights = dict[str, Tensor]

SAMPLE = 256  # images on which is looked for why a score is not finite


@dataclass(frozen=True)
class Candidates:
    """What a score may look at.

    ``network``: as retrained last. ``masks``: who is alive. ``iteration``: t, from 1. ``dataset``: train and validation
    split on the device. ``seed``: fixes every random choice of the method, the same for all iterations of a chain.
    ``step``: of the scorings on the way to the iteration's amount, from 1. ``states``: the dense network's
    ``state_dict`` at a point: initial, warmup or trained. ``flow_sample``: the images Phi* was measured on, [N, C, H,
    W] as the network takes them, and their labels [N]; None where nobody asks.
    """

    network: nn.Module
    masks: Masks
    iteration: int
    dataset: Dataset
    seed: int
    states: Callable[[str], Weights]
    flow_sample: tuple[Tensor, Tensor] | None = None
    step: int = 1

    def weights(self, point: str) -> Weights:
        """The prunable weights of ``point`` by name (initial, warmup, trained or current), pruned ones at zero."""
        state = masking.prunable(self.network) if point == "current" else self.states(point)
        return {name: state[name].detach() * mask for name, mask in self.masks.items()}

    @property
    def current(self) -> Weights:
        """The prunable weights by name, as retrained last, pruned ones at zero."""
        return self.weights("current")

    @property
    def dense(self) -> Weights:
        """The prunable weights by name, as trained dense, pruned ones at zero."""
        return self.weights("trained")

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

    def at(self, masks: Masks, step: int = 1) -> "Candidates":
        """The same with other masks, at another scoring step."""
        other = replace(self, masks=masks, step=step)
        vars(other).update({name: value for name, value in vars(self).items() if name == "groups"})
        return other

    def sample(self, n: int, redraw: bool = False) -> tuple[Tensor, Tensor]:
        """``n`` training images as the network takes them and their labels, the same at every call; with ``redraw``
        others at every iteration and step."""
        seed = derive_seed(self.seed, self.iteration, self.step) if redraw else self.seed
        subset = self.dataset.sample("train", n, seed)
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
    ``reference`` the content of reference_flow.json. ``as_dense`` makes the question whether a network is at least as
    accurate on all test images as the trained dense one; for `reference_quirks` alone, which decides by it.
    """

    masks: Masks
    batches: int
    reference: dict
    flow_images: Tensor
    flow_labels: Tensor
    as_dense: Callable[[], Callable[[nn.Module], bool]]


class Sparsifier(training.Sparsifier, Protocol):
    """Pruning while training: what the loop calls, and at the end what has been set to zero.

    ``masks`` are the masks once training has ended, nested in those it was made with.
    """

    def masks(self) -> Masks: ...


@dataclass(frozen=True)
class Recipe:
    """One pruning method.

    ``score`` low = goes first, of the network with weight * mask in its forward pass: a pruned weight scores 0 and adds
    nothing to the score of another; ``amount`` how many of a group of ``scope`` go. ``structure`` weight: a score is a
    tensor per prunable weight; channel: a vector per channel group, and a channel takes its whole group along; the last
    living channel of a group, that of highest score, stays, and the next in rank go for it.
    ``looks_at``: the point whose weights the score looks at, initial, trained or current. Among equal scores (all that
    is behind dead rectifiers scores 0) the smallest of these weights goes first, of channels the smallest L1 norm of
    the alive incoming weights, and what is equal in both in memory order.
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
    looks_at: str = "current"
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
        stay = None
        for step, amount in enumerate(self._amounts(alive, candidates.iteration), 1):
            now = candidates.at(expand(alive), step)
            scores, weights = self.score(now), now.weights(self.looks_at)
            self._check(scores, alive, now)
            with torch.no_grad():
                if self.structure == "channel":
                    weights = channels.sums(candidates.groups, {name: weight.abs() for name, weight in weights.items()})
                    stay = masking.prune(scores, values, alive, "layer", _all_but_one, weights)
                alive = masking.prune(scores, values, alive, self.scope, amount, weights, stay)
        return expand(alive)

    def _check(self, scores: Weights, alive: Masks, candidates: Candidates) -> None:
        """Raise ``StageError`` unless there is a finite score for everything alive; what is not finite has no rank."""
        module, name = self.score.__module__.rpartition(".")[2], getattr(self.score, "__name__", "score")
        what = f"the score {module}.{name}"
        for entry, living in alive.items():
            shape = getattr(scores.get(entry), "shape", None)
            if shape != living.shape:
                found = "there is none" if shape is None else f"its shape is {list(shape)}"
                raise StageError(f"{what} of {entry}: {found}, and what it scores has the shape {list(living.shape)}")
        bad = {entry: ~scores[entry].isfinite() & living for entry, living in alive.items()}
        if not torch.stack([odd.any() for odd in bad.values()]).any():
            return
        counts = {entry: int(odd.sum()) for entry, odd in bad.items()}
        first = next(entry for entry, count in counts.items() if count)
        network = candidates.networks("initial" if self.looks_at == "initial" else "current")
        network = with_batch_statistics(network) if self.looks_at == "initial" else network
        raise StageError(
            f"{what} is not finite for {sum(counts.values()):,} of {masking.alive_count(alive):,} living "
            f"{self.structure}s, first in {first}: {why_not_finite(network, *candidates.sample(SAMPLE))}",
            "not_finite",
        )

    def _amounts(self, alive: Masks, iteration: int) -> list[Amount]:
        """The amount of every scoring step."""
        amount = self.amount.at(iteration) if hasattr(self.amount, "at") else self.amount
        if self.steps == 1:
            return [amount]
        before, rows = masking.alive_count(alive), [mask.reshape(1, -1) for mask in alive.values()]
        [goes] = amount.per_row(rows, rows)
        left = [round(before * ((before - goes) / before) ** (step / self.steps)) for step in range(self.steps + 1)]
        return [lambda values, count=count: values.numel() - count for count in left[1:]]


def _all_but_one(living: Tensor) -> int:
    return max(0, len(living) - 1)


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


def dense_magnitude(candidates: Candidates) -> Weights:
    """|w| of the dense trained weights, whatever retraining made of them since."""
    return {name: weight.abs() for name, weight in candidates.dense.items()}
