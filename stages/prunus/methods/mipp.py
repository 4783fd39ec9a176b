"""MIPP, Mutual Information Preserving Pruning (Westphal, Hailes and Musolesi, arXiv 2411.00147, algorithms 1 and 2).

From the outputs to the inputs, every channel group keeps the channels that the activations of the next, already pruned
layer need: transfer entropy redundancy criterion with MI ordering (``prunus.information.terc``). There is no global
ranking; the share that goes of each layer is what the test finds.

What the paper leaves open, and what is done here: a channel's variable is the activation that the next layer reads
(after ReLU and pooling), a convolution's as ``cells`` x ``cells`` means of its map (appendix E.2 is unconfirmed); the
target is the next layer's activation as the layer after it reads it, network outputs at the end. Channels coupled by
skip connections are one group: its variables are what all its readers see, its target what all of them write, and
groups go in descending order of their last reader. Theorem 1 wants I(X'; X_next) = I(X; X_next), which no finite
sample shows: ``confidence`` is the level of the intervals that must separate before a channel counts as needed (high
prunes more), ``regularisation`` the information a layer may lose, see ``terc``. One iteration of a chain is one run of
the algorithm, on the network as retrained last (``when: trained``) or as drawn with the pruned channels at zero
(``when: initial``).
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from prunus import channels
from prunus.channels import Group, Slice
from prunus.information import terc
from prunus.masks import Masks
from prunus.params import NonNegative, Positive
from prunus.readings import capture, cells, reader_name
from prunus.recipe import Candidates, ChannelSettings, FixedEpochsSettings, Recipe
from prunus.runtime import StageError

INPUT = "input"
FLAT_INPUT = ("linear", "mlp")  # networks whose first layer reads pixels one by one


class Settings(ChannelSettings, FixedEpochsSettings):
    """``regularisation``: entry t is iteration t's, the last one holds from there on. ``include_input``: also choose
    among the pixels (linear, mlp) or the colour channels that the network reads."""

    when: Literal["initial", "trained"]
    predictor: Literal["linear", "mlp"]
    order: Literal["mi", "plain"]
    confidence: Annotated[float, Field(gt=0, lt=1)]
    regularisation: Annotated[list[NonNegative], Field(min_length=1)]
    repeats: Annotated[int, Field(ge=2)]
    samples: Annotated[int, Field(ge=20)]
    cells: Positive
    include_input: bool

    def misfit(self, network: str, channels: int) -> str | None:
        if not self.include_input:
            return super().misfit(network, channels)
        if channels == 1 and network not in FLAT_INPUT:
            return f"has include_input: true, and the first layer of {network} reads one channel: nothing to choose"
        return None


def input_group(network: nn.Module) -> Group:
    """What the first layer reads, one pixel or colour channel each, as a group that nothing writes."""
    name, first = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear))
    index = torch.arange(first.weight.shape[1], device=first.weight.device)[:, None]
    return Group(INPUT, len(index), (Slice(f"{name}.weight", 1, index),))


class _Readings:
    """What each group's readers see and write, on a sample of images."""

    def __init__(self, network: nn.Module, groups: list[Group], images: Tensor, side: int):
        layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        self.position = {name: position for position, name in enumerate(layers)}  # named_modules is forward order
        self.writer = {reader_name(part): group for group in groups for part in group.writes}
        self.readers = {
            group.name: sorted((reader_name(part) for part in group.reads), key=self.position.get) for group in groups
        }
        index = {reader_name(part): part.index for group in groups for part in group.reads}

        def reduce(name: str):
            last = name not in self.writer  # nothing prunable reads what it writes

            def keep(read: Tensor, written: Tensor) -> tuple[Tensor, Tensor | None]:
                return cells(read, index[name], side), _pooled(written, side) if last else None

            return keep

        self._kept = capture(network, images, {name: reduce(name) for name in index})

    def variables(self, group: Group) -> Tensor:
        """[N, channels, k]: the cells of each channel, of all readers side by side."""
        return torch.cat([self._kept[name][0] for name in self.readers[group.name]], 2)

    def target(self, group: Group, alive: Masks) -> Tensor:
        """[N, T]: what the readers write, as the next layer reads it, of the channels that are alive."""
        return torch.cat([self._written(name, alive) for name in self.readers[group.name]], 1)

    def _written(self, name: str, alive: Masks) -> Tensor:
        if name not in self.writer:
            return self._kept[name][1]
        group = self.writer[name]
        following = next(reader for reader in self.readers[group.name] if self.position[reader] > self.position[name])
        return self._kept[following][0][:, alive[group.name]].flatten(1)


def _pooled(written: Tensor, side: int) -> Tensor:
    """A layer's output as [N, T]: cells of maps, means over tokens."""
    if written.dim() == 4:
        return F.adaptive_avg_pool2d(written, min(side, written.shape[2])).flatten(1)
    return written.mean(1) if written.dim() == 3 else written


def eliminate(
    network: nn.Module,
    groups: list[Group],
    alive: Masks,
    images: Tensor,
    settings: Settings,
    seed: int,
    iteration: int = 1,
) -> Masks:
    """Algorithm 1: the channels of ``network`` (eval mode, dead ones at zero) that the next layer needs, by group name.

    ``alive`` [channels] bool by group; ``images`` as the network takes them. No group is emptied. StageError where the
    images are too few for the predictor.
    """
    readings = _Readings(network, groups, images, settings.cells)
    alive = dict(alive)
    for group in sorted(groups, key=lambda g: readings.position[readings.readers[g.name][-1]], reverse=True):
        candidates = alive[group.name].nonzero().flatten()
        if len(candidates) < 2:
            continue
        variables, target = readings.variables(group)[:, candidates], readings.target(group, alive)
        try:
            kept = terc(
                list(variables.unbind(1)),
                target,
                order=settings.order,
                predictor=settings.predictor,
                confidence=settings.confidence,
                regularisation=settings.regularisation[min(iteration, len(settings.regularisation)) - 1],
                repeats=settings.repeats,
                keep_at_least=1,
                seed=seed,
            )
        except ValueError as error:
            raise StageError(
                f"methods.mipp: {group.name}: {error}; raise samples, lower cells, or take predictor: mlp"
            ) from None
        mask = torch.zeros_like(alive[group.name])
        mask[candidates[kept]] = True
        alive[group.name] = mask
    return alive


def recipe(settings: Settings) -> Recipe:
    def select(candidates: Candidates, network: nn.Module) -> Masks:
        groups = candidates.groups
        if settings.include_input:
            groups = [input_group(network), *groups]
        pruned = candidates.networks("initial" if settings.when == "initial" else "current")
        images, _ = candidates.sample(settings.samples)
        alive = channels.alive(groups, candidates.masks)
        kept = eliminate(pruned, groups, alive, images, settings, candidates.seed, candidates.iteration)
        return channels.expand(groups, kept, candidates.masks)

    return Recipe(None, None, None, settings.rewind, settings.stop, select=select)
