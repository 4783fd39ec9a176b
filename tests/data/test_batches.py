"""The mini-batches of an epoch: every image once, augmentation moves whole images, one order per seed."""

import itertools

import pytest
import torch
from torch import nn

from prunus.data.batches import batches_per_epoch, epoch, flip_crop
from prunus.data.dataset import Split


def numbered(n, channels=1, side=8):
    """Random images whose label is their number."""
    return Split(torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8), torch.arange(n))


@pytest.mark.parametrize(("n", "size", "steps"), [(66, 16, 5), (65, 16, 4), (64, 16, 4), (1, 16, 1)])
def test_a_last_batch_of_one_image_is_left_out(n, size, steps):
    assert batches_per_epoch(n, size) == steps
    assert len(list(epoch(numbered(n), size, "none", torch.Generator().manual_seed(0)))) == steps


def test_every_image_comes_once_with_its_label():
    split = numbered(66)
    batches = list(epoch(split, 16, "none", torch.Generator().manual_seed(0)))
    labels = torch.cat([labels for _, labels in batches])
    assert labels.sort().values.tolist() == list(range(66))
    assert labels.tolist() != list(range(66))
    assert torch.equal(torch.cat([images for images, _ in batches]), split.images[labels])


@pytest.mark.parametrize("augment", ["none", "flip_crop"])
def test_the_seed_fixes_the_epoch_and_epochs_differ(augment):
    split, first, again = numbered(40, side=12), torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    one, same, next_ = (
        torch.cat([images for images, _ in epoch(split, 16, augment, generator)]) for generator in (first, again, first)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, next_)


def windows(image, height, width):
    """Every crop of ``image`` after reflecting 4 pixels at the border, as it is and mirrored."""
    padded = nn.functional.pad(image[None].float(), (4,) * 4, mode="reflect")[0].to(torch.uint8)
    for y, x in itertools.product(range(9), repeat=2):
        crop = padded[:, y : y + height, x : x + width]
        yield from (crop, crop.flip(2))


def test_augmentation_moves_whole_images():
    split = Split(torch.randint(0, 256, (50, 3, 12, 10), dtype=torch.uint8), torch.arange(50))
    moved = 0
    for images, labels in epoch(split, 16, "flip_crop", torch.Generator().manual_seed(0)):
        for image, label in zip(images, labels, strict=True):
            assert any(torch.equal(window, image) for window in windows(split.images[label], 12, 10))
            moved += not torch.equal(image, split.images[label])
    assert moved > 40


def test_a_shift_and_a_flip_by_hand():
    image = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4)
    shifted = flip_crop(image, torch.tensor([0]), torch.tensor([[1], [-2]]), torch.tensor([False]))
    assert shifted[0, 0].tolist() == [[6, 5, 4, 5], [10, 9, 8, 9], [6, 5, 4, 5]]
    mirrored = flip_crop(image, torch.tensor([0]), torch.tensor([[0], [0]]), torch.tensor([True]))
    assert mirrored[0, 0].tolist() == image[0, 0].flip(1).tolist()


@pytest.mark.parametrize("side", [1, 2, 3])
def test_images_smaller_than_the_padding(side):
    split = numbered(20, side=side)
    (images, _), *_ = epoch(split, 20, "flip_crop", torch.Generator().manual_seed(0))
    assert images.shape == split.images.shape
