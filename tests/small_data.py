"""Datasets small enough for a test, and what tests ask of them."""

from pathlib import Path

import torch
from torch import Tensor

from prunus.data.dataset import SPLITS, Dataset, Split, save
from prunus.sources.splits import Source, cut


def random_dataset(n: int = 66, images: Tensor | None = None) -> Dataset:
    """``n`` training images uint8 1x8x8 of three classes, random unless given; the first 12 validate as well."""
    labels = torch.arange(n) % 3
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8) if images is None else images
    whole = Split(images, labels)
    splits = {"train": whole, "validation": whole[torch.arange(min(n, 12))]}
    return Dataset(splits, torch.full((1,), 0.5), torch.full((1,), 0.25), ("a", "b", "c"))


def learnable_dataset() -> Dataset:
    """66 training and 12 validation images 1x8x8 of three classes, the brighter the higher the class."""

    def split(n: int) -> Split:
        labels = torch.arange(n) % 3
        images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8) // 4
        return Split(images + 60 * labels.view(-1, 1, 1, 1).to(torch.uint8), labels)

    splits = {"train": split(66), "validation": split(12)}
    return Dataset(splits, torch.full((1,), 0.5), torch.full((1,), 0.25), ("a", "b", "c"))


def counts(split: Split) -> list[int]:
    """Images per class."""
    return split.labels.bincount().tolist()


def in_every_split(split: Split) -> dict[str, Split]:
    """Copies of one split under the names of all, as ``save`` takes them."""
    return {name: Split(split.images.clone(), split.labels.clone()) for name in SPLITS}


def prepared_file(source: Source, path: Path, seed: int = 0) -> bytes:
    """The bytes of the prepared file of ``source``, written to ``path``."""
    save(path, "some", cut(source, 0.2, 0.1, seed), source.classes)
    return path.read_bytes()
