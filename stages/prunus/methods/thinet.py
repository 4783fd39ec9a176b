"""ThiNet: the channels that the layers reading them miss least go (Luo, Wu and Lin, ICCV 2017, arXiv 1707.06342).

A sample is one random output unit of a reading layer at one random place (a token's, on tokens) of one training image:
the contribution x_c of every channel to that output, its kernel slice times its patch; their sum is the output less its
bias. Channels join the removed set R one by one, each time the one that keeps the sum of (sum over R of x_c)^2 over the
samples smallest (section 3.2.2); then the survivors' kernel slices are scaled by the least-squares weights that bring
their sum back to the output (3.2.3). Groups are treated front to back, every time on the network as pruned so far.

The channels that several layers read (a residual stream) are judged by samples of all these layers; the paper leaves
them alone. The paper fine-tunes for an epoch or two after every layer and at length at the end, here it is once per
iteration, for `epochs`, from the scaled weights: hence `rewind: none`. Where the samples leave a scale open (a channel
that is silent, two that are alike) it stays nearest to 1. Among channels that are missed alike, as silent ones are, the
one with the smallest L1 norm of its incoming weights goes first.
"""

import copy
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from prunus import channels
from prunus import masks as masking
from prunus.channels.groups import Group
from prunus.channels.readings import capture, reader_name
from prunus.masks import Masks, prunable
from prunus.networks.inspect import why_not_finite
from prunus.pruning.candidates import Candidates
from prunus.pruning.recipe import Pruned, Recipe, Rewind
from prunus.pruning.settings import ChannelSettings, FixedEpochsSettings
from prunus.run.errors import StageError
from prunus.sparsity import fraction_count
from prunus.study.schema import Positive, PositiveFraction

NEGLIGIBLE = 1e-10  # of the largest eigenvalue of the samples' Gram matrix: below it a direction was not seen


class Settings(ChannelSettings, FixedEpochsSettings):
    """The channels go that the layers reading them miss least; survivors are scaled to make up."""

    fraction: PositiveFraction = Field(description="of the channels left, of every group alike")
    scope: Literal["layer"] = Field(description="each group of coupled channels by itself, the only one")
    rewind: Literal["none"] = Field(description="the scaled survivors are fine-tuned, the only way")
    images_per_class: Positive = Field(description="training images of each class")
    locations: Positive = Field(description="samples per image and reading layer")


def sampler(
    layer: nn.Module, index: Tensor, locations: int, generator: torch.Generator
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """For ``readings.capture``: from a layer's input and output ``locations`` samples per image.

    ``layer`` a linear layer or convolution with zero padding and without groups; ``index`` int64 [channels, k] the
    entries of dimension 1 of its weight that belong to each channel; ``generator`` a CPU generator.
    Gives the contributions [N * locations, channels] and the outputs they add up to where ``index`` holds all entries,
    bias included, [N * locations].
    """

    def draw(high: int, n: int, device: torch.device) -> Tensor:
        return torch.randint(high, (n,), generator=generator).to(device)

    def sample(read: Tensor, written: Tensor) -> tuple[Tensor, Tensor]:
        n, device = len(read) * locations, read.device
        image = torch.arange(len(read), device=device).repeat_interleave(locations)
        unit = draw(len(layer.weight), n, device)
        kernel = layer.weight[unit]
        if read.dim() == 4:
            y, x = (draw(size, n, device) for size in written.shape[2:])
            output = written[image, unit, y, x]
            products = _patches(layer, read, image, y, x) * kernel.permute(0, 2, 3, 1)
            products = products.sum((1, 2))
        else:
            token = (draw(read.shape[1], n, device),) if read.dim() == 3 else ()
            output = written[(image, *token, unit)]
            products = read[(image, *token)] * kernel
        return products[:, index].sum(2), output

    return sample


def _patches(layer: nn.Conv2d, read: Tensor, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """What the convolution sees at output places (y, x) of the images: [n, kernel height, kernel width, C]."""
    (top, left), (height, width) = layer.padding, layer.kernel_size
    padded = F.pad(read, (left, left, top, top))
    steps = [torch.arange(size, device=read.device) for size in (height, width)]
    rows = y[:, None] * layer.stride[0] + steps[0] * layer.dilation[0]
    columns = x[:, None] * layer.stride[1] + steps[1] * layer.dilation[1]
    return padded.permute(0, 2, 3, 1)[image[:, None, None], rows[:, :, None], columns[:, None, :]]


def least_missed(gram: Tensor, count: int) -> Tensor:
    """The ``count`` channels that go, in the order they are chosen, int64 [count].

    ``gram`` [channels, channels]: the products x_c . x_d of the channels' contributions, summed over the samples. Each
    choice minimises ||sum of the removed x_c||^2; of equals the first goes.
    """
    # ||s + x_c||^2 = ||s||^2 + 2 s.x_c + ||x_c||^2, and s.x_c is a sum of columns of the Gram matrix.
    cost = gram.diagonal().clone()
    removed = []
    for _ in range(count):
        chosen = cost.argmin()
        cost += 2 * gram[chosen]
        cost[chosen] = torch.inf
        removed.append(chosen)
    return torch.stack(removed) if removed else torch.zeros(0, dtype=torch.int64, device=gram.device)


def scales(gram: Tensor, kept: Tensor) -> Tensor:
    """The least-squares weights w of the channels: ||y - sum over kept of w_c x_c|| is smallest, y = sum of all x_c.

    ``gram`` as in ``least_missed``, ``kept`` bool [channels]; returns [channels], 0 for those that are not kept. Of all
    solutions it is the one nearest to 1.
    """
    missing = gram[kept][:, ~kept].sum(1)
    change = torch.linalg.pinv(gram[kept][:, kept], rtol=NEGLIGIBLE, hermitian=True) @ missing
    result = torch.zeros_like(gram[0])
    result[kept] = 1 + change
    return result


def _contributions(
    network: nn.Module, group: Group, images: Tensor, locations: int, generator: torch.Generator
) -> Tensor:
    """[samples, channels] float64 of all layers that read the group."""
    samplers = {
        reader_name(part): sampler(network.get_submodule(reader_name(part)), part.index, locations, generator)
        for part in group.reads
    }
    return torch.cat([contributions for contributions, _ in capture(network, images, samplers).values()]).double()


def _rescale(network: nn.Module, group: Group, factors: Tensor) -> None:
    """Multiply what the group's readers make of its channels by ``factors`` [channels], in place."""
    for part in group.reads:
        weight = network.get_parameter(part.parameter)
        along = torch.ones(weight.shape[1], dtype=weight.dtype, device=weight.device)
        along[part.index] = factors.to(weight.dtype)[:, None].expand(part.index.shape)
        weight.mul_(along.view(1, -1, *[1] * (weight.dim() - 2)))


@torch.no_grad()
def prune(
    network: nn.Module,
    groups: list[Group],
    masks: Masks,
    images: Tensor,
    settings: Settings,
    seed: int,
    iteration: int = 1,
) -> Pruned:
    """New masks, nested in ``masks``, and the weights that were rescaled; ``network`` is left as it was.

    ``images`` [N, C, H, W] as the network takes them. No group loses its last channel. Raises ``StageError`` where what
    the layers see, or the rescaled weights, are not finite.
    """
    before, network = prunable(network), copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    masking.apply(network, masks)
    for group in groups:
        living = channels.alive([group], masks)[group.name]
        size = channels.sums([group], {name: weight.abs() for name, weight in prunable(network).items()})[group.name]
        candidates = living.nonzero().flatten()
        candidates = candidates[size[candidates].argsort(stable=True)]  # of equals, as dead ones are, the smallest goes
        count = fraction_count(group.size, len(candidates), settings.fraction, iteration)
        if count == 0:
            continue
        samples = _contributions(network, group, images, settings.locations, generator)[:, candidates]
        gram = samples.T @ samples
        if not gram.isfinite().all():
            why = why_not_finite(copy.deepcopy(network).eval(), images)
            raise StageError(f"{group.name}: what its channels contribute is not finite: {why}", "not_finite")
        kept = torch.ones(len(candidates), dtype=torch.bool, device=gram.device)
        kept[least_missed(gram, count)] = False
        factors = torch.zeros(group.size, dtype=gram.dtype, device=gram.device)
        factors[candidates] = scales(gram, kept)
        if int(kept.sum()) != len(candidates) - count:
            pruned = len(candidates) - int(kept.sum())
            raise StageError(f"{group.name}: {count} of {len(candidates)} channels were to go, and {pruned} went")
        living = torch.zeros_like(living)
        living[candidates[kept]] = True
        _rescale(network, group, factors)
        if not all(network.get_parameter(part.parameter).isfinite().all() for part in group.reads):
            largest = factors.abs().max().item()
            raise StageError(
                f"{group.name}: the scales of the channels that stay, up to {largest:.2g}, make weights that are not "
                "finite",
                "not_finite",
            )
        masks = channels.expand([group], {group.name: living}, masks)
        masking.apply(network, masks)
    after = {name: weight.detach() for name, weight in prunable(network).items()}
    return Pruned(masks, {name: w for name, w in after.items() if not w.equal(before[name] * masks[name])})


def recipe(settings: Settings) -> Recipe:
    def missed_least(candidates: Candidates) -> Pruned:
        images, _ = candidates.sample_per_class(settings.images_per_class)
        arguments = images, settings, candidates.seed, candidates.iteration
        return prune(candidates.network, candidates.groups, candidates.masks, *arguments)

    return Recipe(prune=missed_least, rewind=Rewind(settings.rewind), retrain=settings.stop_rule)
