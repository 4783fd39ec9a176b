"""MIPP, Mutual Information Preserving Pruning (Westphal, Hailes and Musolesi, arXiv 2411.00147, algorithms 1 and 2).

Algorithm 1, for every layer l from the outputs to the inputs:

1. X are the activations of layer l on a sample of training images, T those of layer l + 1, of what has been kept there.
2. The channels i of layer l are put in ascending order of I(X_i; T), the least informative first.
3. Algorithm 2, for each i in this order: i goes if T is predicted no worse from what is left of X without X_i.
4. The mask m_l has the channels that are left.

5. With all masks applied the network is retrained.

Steps 2 and 3 are the transfer entropy redundancy criterion with MI ordering (``prunus.information.terc``). There is no
global ranking; the test decides how much of each layer goes.

What the paper leaves open, and what is done here: a channel's variable is the activation that the next layer reads
(after ReLU and pooling), a convolution's as ``cells`` x ``cells`` means of its map (appendix E.2 is unconfirmed); the
target is the next layer's activation as the layer after it reads it, network outputs at the end. Channels coupled by
skip connections are one group: its variables are what all its readers see, its target what all of them write, and
groups go in descending order of their last reader. Theorem 1 wants I(X'; X_next) = I(X; X_next), which no finite
sample shows: a channel counts as needed where it is shown with ``confidence`` that the next layer's activations are
predicted worse without it (high prunes more), and ``regularisation`` is the share of its information that a layer may
lose on top, spent on the channels that cost least, see ``terc``. One iteration of a chain is one run of the algorithm,
on the network as retrained last (``when: trained``) or as drawn with the pruned channels at zero (``when: initial``).

``structure: weight`` puts the same question to every unit of the next layer by itself (an open question of the paper's;
how is ours): which channels does its own pre-activation need? The weights with which it reads the others go (of a
convolution a whole kernel slice w[j, i]), as do all weights into units that nothing reads any more. The target is the
pre-activation because the unit's activation is a function of it, and because a skip connection adds nothing to it.
"""

import copy
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from prunus import channels
from prunus.channels.groups import Group, Slice
from prunus.channels.readings import Readings, capture, cells, reader_name, written_cells
from prunus.information.elimination import terc, terc_each
from prunus.information.estimate import TooFewSamples
from prunus.masks import Masks, alive_count
from prunus.networks.inspect import why_not_finite
from prunus.pruning.candidates import Candidates
from prunus.pruning.recipe import Recipe, Rewind
from prunus.pruning.settings import FixedEpochsSettings, StructureSettings
from prunus.run.errors import StageError
from prunus.study.catalogue import SINGLE_LAYER
from prunus.study.reading import LARGEST
from prunus.study.schema import NonNegative, Positive

INPUT = "input"
FLAT_INPUT = ("linear", "mlp")  # networks whose first layer reads pixels one by one


class Settings(StructureSettings, FixedEpochsSettings):
    """Keeps the channels that the next layer's activations need, from the outputs to the inputs."""

    structure: Literal["weight", "channel"] = Field(
        description="channel (the paper's) | weight (the same test for every unit of the next layer by itself)"
    )
    when: Literal["initial", "trained"] = Field(
        description="trained: the network as retrained last | initial: as drawn, before any training"
    )
    predictor: Literal["linear", "mlp"] = Field(
        description="linear (exact, fast) | mlp (the paper's; also sees redundancy that is not linear)"
    )
    order: Literal["mi", "plain"] = Field(description="mi (least informative first) | plain")
    confidence: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="level at which a channel must be shown to be needed; high prunes more"
    )
    regularisation: Annotated[list[NonNegative], Field(min_length=1)] = Field(
        description="share of its information a layer may lose, spent on what costs least (0: only what costs nothing "
        "goes); one entry per iteration, the last one holds on"
    )
    repeats: Annotated[int, Field(ge=2, le=1000)] = Field(
        description="splits of the sample into fitting and held-out images"
    )
    samples: Annotated[int, Field(ge=20, le=LARGEST)] = Field(description="training images whose activations are used")
    cells: Positive = Field(description="a feature map is read as cells x cells means")
    include_input: bool = Field(
        description="true: also the pixels (linear, mlp) or colour channels that the first layer reads"
    )

    def misfit(self, network: str, channels: int) -> str | None:
        if not self.include_input:
            if network in SINGLE_LAYER and not self.prunes_channels:
                return f"chooses what the layers after the first one read, and {network} has one layer"
            return super().misfit(network, channels)
        if channels == 1 and network not in FLAT_INPUT:
            return f"has include_input: true, and the first layer of {network} reads one channel: nothing to choose"
        return None

    def test(self, iteration: int, seed: int) -> dict[str, Any]:
        """The options of ``terc`` at an iteration."""
        return {
            "order": self.order,
            "predictor": self.predictor,
            "confidence": self.confidence,
            "regularisation": self.regularisation[min(iteration, len(self.regularisation)) - 1],
            "repeats": self.repeats,
            "keep_at_least": 1,
            "seed": seed,
        }


def input_group(network: nn.Module) -> Group:
    """What the first layer reads, one pixel or colour channel each, as a group that nothing writes."""
    name, first = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear))
    index = torch.arange(first.weight.shape[1], device=first.weight.device)[:, None]
    return Group(INPUT, len(index), (Slice(f"{name}.weight", 1, index),))


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
    images are too few for the predictor, or activations not finite.
    """
    readings = Readings(network, groups, images, settings.cells)
    alive = dict(alive)
    for group in sorted(groups, key=lambda g: readings.position[readings.readers[g.name][-1]], reverse=True):
        candidates = alive[group.name].nonzero().flatten()
        if len(candidates) < 2:
            continue
        variables, target = readings.variables(group)[:, candidates], readings.target(group, alive)  # 1: X and T
        _refuse_not_finite(group.name, network, images, variables, target)
        try:
            kept = terc(list(variables.unbind(1)), target, **settings.test(iteration, seed))  # 2 and 3
        except TooFewSamples as error:
            raise _too_little(group.name, error, settings, images) from None
        mask = torch.zeros_like(alive[group.name])
        mask[candidates[kept]] = True
        alive[group.name] = mask  # 4: m_l
    return alive


def _refuse_not_finite(name: str, network: nn.Module, images: Tensor, *values: Tensor) -> None:
    if not all(bool(value.isfinite().all()) for value in values):
        why = why_not_finite(copy.deepcopy(network).eval(), images)
        raise StageError(f"methods.mipp: {name}: the activations it is judged by are not finite: {why}", "not_finite")


def _too_little(name: str, error: TooFewSamples, settings: Settings, images: Tensor) -> StageError:
    relief = error.relief("methods.mipp", len(images), settings.samples, settings.cells)
    return StageError(f"methods.mipp: {name}: {error}; {relief}")


def eliminate_weights(
    network: nn.Module,
    groups: list[Group],
    masks: Masks,
    images: Tensor,
    settings: Settings,
    seed: int,
    iteration: int = 1,
) -> Masks:
    """Weight masks, nested in ``masks``: what the units of ``network`` (eval mode, dead weights at zero) need to read.

    Every layer that reads a group chooses, and every other but the first, among the entries it reads. A unit that
    anything reads keeps at least one of the channels it has; grouped convolutions read one each, and keep it.
    StageError where the images are too few for the predictor, or activations not finite.
    """
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and getattr(layer, "groups", 1) == 1
    }
    index = {reader_name(part): part.index for group in groups for part in group.reads}
    first = input_group(network).slices[0]
    for name, layer in layers.items():
        if name != reader_name(first):
            index.setdefault(name, torch.arange(layer.weight.shape[1], device=layer.weight.device)[:, None])

    def reduce(name: str):
        return lambda read, written: (cells(read, index[name], settings.cells), written_cells(written, settings.cells))

    kept = capture(network, images, {name: reduce(name) for name in layers if name in index})
    for name in reversed(kept):
        masks = _without_unread(groups, masks)
        variables, written = kept[name]
        _refuse_not_finite(name, network, images, variables, written)
        mask = masks[f"{name}.weight"]
        reads = mask.flatten(2).any(2) if mask.dim() > 2 else mask
        reads = reads[:, index[name]].any(2)  # [units, channels]
        units = (reads.sum(1) > 1).nonzero().flatten().tolist()
        if not units:
            continue
        targets = written.unflatten(1, (len(mask), -1))
        among = [reads[unit].nonzero().flatten().tolist() for unit in units]
        try:
            needed = terc_each(
                list(variables.unbind(1)),
                [targets[:, unit] for unit in units],
                among,
                **settings.test(iteration, seed),
            )
        except TooFewSamples as error:
            raise _too_little(name, error, settings, images) from None
        for unit, candidates, chosen in zip(units, among, needed, strict=True):
            unneeded = sorted(set(candidates) - set(chosen))
            mask[unit, index[name][unneeded].flatten()] = False
    return _without_unread(groups, masks)


def _without_unread(groups: list[Group], masks: Masks) -> Masks:
    """``masks`` without the weights into units that nothing reads, and into those that only they read."""
    before = None
    while before != alive_count(masks):
        before = alive_count(masks)
        masks = channels.expand(groups, channels.alive(groups, masks), masks)
    return masks


def recipe(settings: Settings) -> Recipe:
    def preserving(candidates: Candidates) -> Masks:
        """The masks that preserve the information between layers, from a fixed sample of training images."""
        network = candidates.networks("initial" if settings.when == "initial" else "current")
        groups = candidates.groups
        if settings.include_input:
            groups = [input_group(network), *groups]
        images, _ = candidates.sample(settings.samples)
        arguments = images, settings, candidates.seed, candidates.iteration
        if settings.structure == "weight":
            return eliminate_weights(network, groups, candidates.masks, *arguments)
        alive = channels.alive(groups, candidates.masks)
        return channels.expand(groups, eliminate(network, groups, alive, *arguments), candidates.masks)

    return Recipe(prune=preserving, rewind=Rewind(settings.rewind), retrain=settings.stop_rule)  # 5
