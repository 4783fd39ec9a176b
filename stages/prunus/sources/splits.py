"""From a reader's ``Source`` to the training, validation and test split of a dataset, cut class by class."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor

from prunus.data.dataset import DataError, Split, drawn
from prunus.run.seeds import derive_seed


@dataclass(frozen=True, eq=False)
class Source:
    """The result of a reader: images on the CPU; ``test`` is None if the dataset has no test images of its own.

    Images are a tensor, or an object that reads them when indexed with one (``image_folder.Pictures``). ``names``: of
    the training images and then the test images, if they have names; ``passed_over``: by kind, the names of files and
    folders that are not used.
    """

    train: Split
    test: Split | None
    classes: tuple[str, ...]
    names: Sequence[str] = ()
    passed_over: dict[str, list[str]] = field(default_factory=dict)

    def numbered(self) -> "Source":
        """The same with a number in place of every image, so that it can be split without reading or copying images."""
        n = len(self.train.labels)
        test = self.test and Split(torch.arange(n, n + len(self.test.labels)), self.test.labels)
        return Source(Split(torch.arange(n), self.train.labels), test, self.classes)

    def images(self, numbers: Tensor) -> Tensor:
        """uint8 [N, C, H, W]: the images with these ``numbers``, either all training or all test images."""
        n = len(self.train.labels)
        return self.train.images[numbers] if int(numbers[0]) < n else self.test.images[numbers - n]


def of_classes(source: Source, classes: str | list[int]) -> Source:
    """Only the images of ``classes`` (all, or class numbers), which get the labels 0..k-1 in the order given.

    If test images must still be cut, cut them first (``with_test``): those of a class then do not depend on the other
    classes listed. Raises ``DataError`` for a number that is not a class of the source.
    """
    if classes == "all":
        return source
    count = len(source.classes)
    for number in classes:
        if number >= count:
            raise DataError(f"classes: {number} is not a class of the dataset; allowed: 0 to {count - 1}")
    new_label = torch.full((count,), -1)
    new_label[classes] = torch.arange(len(classes))

    def chosen(split: Split) -> Split:
        labels = new_label[split.labels]
        return Split(split.images, labels)[labels >= 0]

    test = None if source.test is None else chosen(source.test)
    return Source(chosen(source.train), test, tuple(source.classes[number] for number in classes))


def _thin(split: Split, fraction: float, imbalance: float, classes: int, seed: int) -> Split:
    """The share fraction * imbalance^(-k / (classes - 1)) of every class k, rounded, drawn by ``seed``.

    The long tail is that of Cui et al. (CVPR 2019, arXiv 1901.05555). At one seed a larger share includes a smaller.
    """
    shares = {label: fraction * imbalance ** (-label / (classes - 1)) for label in range(classes)}
    return split[drawn(split.labels, shares, seed)]


def _cut(split: Split, fraction: float, keep: int, classes: tuple[str, ...], seed: int) -> tuple[Split, Split]:
    """The rest and the cut part: ``fraction`` of every class, at least one image; at least ``keep`` images stay."""
    generator = torch.Generator().manual_seed(seed)
    goes = torch.zeros(len(split.labels), dtype=torch.bool)
    for label, name in enumerate(classes):
        members = (split.labels == label).nonzero().flatten()
        if len(members) <= keep:
            raise DataError(
                f"class {name!r}: has {len(members)} image(s) to cut the splits from and needs {keep + 1}, "
                "one in each split; add images, use more of them (fraction, imbalance) or remove the class"
            )
        count = min(max(int(fraction * len(members) + 0.5), 1), len(members) - keep)
        goes[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return split[~goes], split[goes]


def with_test(source: Source, fraction: float, seed: int) -> Source:
    """``source`` with test images: its own or, if it has none, ``fraction`` of every class of its training images.

    Raises ``DataError`` for a class too small to leave one image in each split.
    """
    if source.test is not None:
        return source
    train, test = _cut(source.train, fraction, 2, source.classes, derive_seed(seed, "test"))
    return Source(train, test, source.classes)


def cut(
    source: Source,
    test_fraction: float,
    validation_fraction: float,
    seed: int,
    fraction: float = 1.0,
    imbalance: float = 1.0,
) -> dict[str, Split]:
    """The train, validation and test split of ``source``, cut class by class, in the source's order.

    Test images are cut first, and only if the source has none. ``fraction`` of the rest is used, of class k of K the
    share imbalance^(-k / (K - 1)) of that; validation images are cut from it. Shares are rounded class by class.
    Raises ``DataError`` for a class too small to leave one image in each split.
    """
    source = with_test(source, test_fraction, seed)
    train = _thin(source.train, fraction, imbalance, len(source.classes), derive_seed(seed, "fraction"))
    train, validation = _cut(train, validation_fraction, 1, source.classes, derive_seed(seed, "validation"))
    return {"train": train, "validation": validation, "test": source.test}


def shared(splits: dict[str, Split]) -> list[tuple[tuple[str, int], tuple[str, int]]]:
    """Images that are also in an earlier split, pixel for pixel: split and position of both."""
    earlier, pairs = {}, []
    for split, content in splits.items():
        in_split = {}
        for position, image in enumerate(content.images.numpy()):
            digest = blake2b(image, digest_size=16).digest()
            if digest in earlier:
                pairs.append(((split, position), earlier[digest]))
            in_split.setdefault(digest, (split, position))
        earlier = in_split | earlier
    return pairs
