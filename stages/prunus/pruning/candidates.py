"""What a method may look at: the network as retrained last, its masks, the data, and its dense states."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from prunus import channels
from prunus import masks as masking
from prunus.channels.groups import Group
from prunus.data.dataset import Dataset
from prunus.masks import Masks
from prunus.run.seeds import derive_seed

# What a network holds: tensors by parameter name (of a whole ``state_dict``, buffers too), with the network's shapes.
Weights = dict[str, Tensor]
# How much depends on each weight or channel, low = goes first: by parameter name tensors of the weight's shape, or by
# channel group name vectors [channels].
Scores = dict[str, Tensor]

SAMPLE = 256  # images that serve to find why a score is not finite


@dataclass(frozen=True)
class Candidates:
    """What a method may look at, and must leave as it is.

    ``network``: as retrained last. ``masks``: True where a weight is kept. ``iteration``: t, from 1. ``dataset``: train
    and validation split on the device. ``seed``: fixes every random choice of the method, the same for all iterations
    of a chain.
    ``step``: which scoring on the way to the iteration's amount, from 1. ``states``: the dense network's
    ``state_dict`` at a point: initial, warmup or trained. ``flow_sample``: the images Phi* was measured on, [N, C, H,
    W] as the network takes them, and their labels [N]; None where no method uses it.
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
        split = self.dataset.splits["train"]
        order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(self.seed))
        labels = split.labels.cpu()[order]
        chosen = torch.cat([order[labels == label][:n] for label in range(self.dataset.n_classes)])
        subset = split[chosen.to(split.labels.device)]
        return self.dataset.normalise(subset.images), subset.labels


@dataclass(frozen=True)
class Retraining:
    """What a stop rule may be made from.

    ``flow_images`` [N, C, H, W] as the network takes them and ``flow_labels`` [N] are the subset Phi* was measured on,
    ``reference`` the content of reference_flow.json. ``as_dense`` makes a function that tells whether a network is
    at least as accurate on all test images as the trained dense one; only `reference_quirks` uses it.
    """

    masks: Masks
    batches: int
    reference: dict
    flow_images: Tensor
    flow_labels: Tensor
    as_dense: Callable[[], Callable[[nn.Module], bool]]
