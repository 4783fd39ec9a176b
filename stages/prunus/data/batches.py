"""The mini-batches of an epoch: a split on its device, shuffled and augmented there, a whole batch at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from prunus.data.dataset import Split

CROP_PADDING = 4


def batches_per_epoch(images: int, batch_size: int) -> int:
    """Optimiser steps of an epoch; a last batch of one image is left out, since batch norm cannot train on it."""
    full, rest = divmod(images, batch_size)
    return full + (rest > 1 or (rest == 1 and images == 1))


def epoch(split: Split, batch_size: int, augment: str, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """(images uint8 [n, C, H, W], labels int64 [n]) of every step of an epoch, in random order.

    ``augment``: none or flip_crop; ``generator``: on the CPU, so that the draws do not depend on the device. All are
    drawn and moved to the device before the first step, so that the device never waits within the epoch.
    """
    count, device = len(split.labels), split.labels.device
    steps = batches_per_epoch(count, batch_size)
    order = torch.randperm(count, generator=generator).to(device)
    shifts = flips = None
    if augment == "flip_crop":
        limits = [min(CROP_PADDING, side - 1) for side in split.images.shape[2:]]
        draws = [torch.randint(-limit, limit + 1, (count,), generator=generator) for limit in limits]
        shifts = torch.stack(draws).to(device)
        flips = (torch.rand(count, generator=generator) < 0.5).to(device)
    for chosen in order.split(batch_size)[:steps]:
        if shifts is None:
            # index_select copies whole images; indexing goes byte by byte on a CPU
            yield split.images.index_select(0, chosen), split.labels[chosen]
        else:
            yield flip_crop(split.images, chosen, shifts[:, chosen], flips[chosen]), split.labels[chosen]


def flip_crop(images: Tensor, chosen: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
    """The images [N, C, H, W] with the numbers ``chosen`` [n], shifted by ``shifts`` [2, n] pixels (rows, columns;
    reflected at the border) and mirrored where ``flips`` [n] is True.

    One gather reads every pixel from its place in the original: nothing is padded.
    """
    rows, columns = (_reflected(side, shift) for side, shift in zip(images.shape[2:], shifts, strict=True))
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    picked = images[chosen[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def _reflected(side: int, shifts: Tensor) -> Tensor:
    """Indices [n, side] of the pixels in a row shifted by ``shifts`` [n], reflected at both ends."""
    last = side - 1
    index = torch.arange(side, device=shifts.device) + shifts[:, None]
    return last - (last - index.abs()).abs()
