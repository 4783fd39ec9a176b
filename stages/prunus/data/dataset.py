"""The prepared dataset: one file with uint8 images and labels of every split, made once and kept on the device."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prunus.run.errors import StageError
from prunus.run.files import write_atomically

SPLITS = ("train", "validation", "test")

# safetensors writes metadata in random order; with a single key equal data give equal bytes.
METADATA_KEY = "prunus"
GREY_LEVELS = 256


class DataError(StageError):
    """Images are missing or cannot be used; the message is one line that names the file and says what to do."""


@dataclass(frozen=True, eq=False)
class Split:
    """``images`` uint8 [N, C, H, W] and ``labels`` int64 [N], class indices."""

    images: Tensor
    labels: Tensor

    def __getitem__(self, chosen: Tensor) -> "Split":
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Splits on one device, and how to normalise them.

    ``mean`` and ``std`` are float32 [C] of the training images on the 0..1 scale, ``classes`` the classes' names.
    """

    splits: dict[str, Split]
    mean: Tensor
    std: Tensor
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return tuple(next(iter(self.splits.values())).images.shape[1:])

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @property
    def form(self) -> tuple[int, int, int]:
        """Channels, side in pixels and number of classes, for which a network is built."""
        return self.shape[0], self.shape[1], self.n_classes

    @cached_property
    def _scale(self) -> Tensor:
        return (1 / (255 * self.std))[:, None, None]

    @cached_property
    def _shift(self) -> Tensor:
        return (-self.mean / self.std)[:, None, None]

    def normalise(self, images: Tensor) -> Tensor:
        """(images / 255 - mean) / std as float32, of uint8 images [N, C, H, W] on the dataset's device."""
        return images.to(self._scale.dtype, copy=True).mul_(self._scale).add_(self._shift)

    def sample(self, split: str, n: int, seed: int) -> Split:
        """``n`` different images of ``split``, or all if it has fewer; drawn on the CPU, the same on any device."""
        images = self.splits[split]
        order = torch.randperm(len(images.labels), generator=torch.Generator().manual_seed(seed))
        return images[order[:n].to(images.labels.device)]

    def part(self, split: str, fraction: float, seed: int) -> "Dataset":
        """The same dataset with ``fraction`` of every class of ``split``, rounded, at least one image, in its order.

        Drawn on the CPU, the same on any device. At one seed a smaller part lies within a larger one.
        """
        images = self.splits[split]
        stays = drawn(images.labels.cpu(), dict.fromkeys(range(self.n_classes), fraction), seed, fewest=1)
        return replace(self, splits=self.splits | {split: images[stays.to(images.labels.device)]})


def drawn(labels: Tensor, shares: dict[int, float], seed: int, fewest: int = 0) -> Tensor:
    """Bool [N]: True for drawn images; of each class its share, rounded, and at least ``fewest`` if it has so many."""
    generator = torch.Generator().manual_seed(seed)
    stays = torch.zeros(len(labels), dtype=torch.bool)
    for label, share in shares.items():
        members = (labels == label).nonzero().flatten()
        count = max(int(share * len(members) + 0.5), fewest)
        stays[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return stays


def mean_and_std(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel (float32 [C], 0..1 scale) of uint8 images, exact up to rounding.

    The deviation is at least one grey level, so that a constant channel can be divided by it.
    """
    levels = torch.arange(GREY_LEVELS, dtype=torch.float64) / (GREY_LEVELS - 1)
    counts = torch.zeros(images.shape[1], GREY_LEVELS, dtype=torch.int64)
    for chunk in images.split(1024):  # selecting a channel of all images would copy it
        counts += torch.stack([channel.flatten().bincount(minlength=GREY_LEVELS) for channel in chunk.unbind(1)])
    shares = counts.double() / counts.sum(1, keepdim=True)
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    return mean.float(), variance.sqrt().clamp(min=1 / (GREY_LEVELS - 1)).float()


def save(path: Path, name: str, splits: dict[str, Split], classes: Iterable[str]) -> None:
    """Write the prepared file, completely or not at all; equal content gives equal bytes.

    Tensors ``<split>_images`` uint8 [N, C, H, W], ``<split>_labels`` int64 [N], ``mean`` and ``std`` float32 [C];
    metadata: JSON with the dataset's name and its classes' names. Raises ``DataError`` if it cannot be written.
    """
    mean, std = mean_and_std(splits["train"].images)
    tensors = {"mean": mean, "std": std}
    for split, content in splits.items():
        tensors |= {f"{split}_images": content.images.contiguous(), f"{split}_labels": content.labels.contiguous()}
    metadata = {METADATA_KEY: json.dumps({"classes": list(classes), "dataset": name})}
    try:
        with write_atomically(path) as partial:
            save_file(tensors, partial, metadata)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be written ({error})") from None


def _check(tensors: dict[str, Tensor], classes: object, splits: Iterable[str]) -> None:
    """Raise ``ValueError`` unless ``tensors`` are as ``save`` writes them."""
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError("its classes are not a list of names")
    mean, std = tensors["mean"], tensors["std"]
    if mean.dim() != 1 or any(values.dtype != torch.float32 or values.shape != mean.shape for values in (mean, std)):
        raise ValueError("mean and std must be float32, one value per channel")
    if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
        raise ValueError("mean and std are not finite, or std is not above 0")
    for split in splits:
        images, labels = tensors[f"{split}_images"], tensors[f"{split}_labels"]
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != len(mean) or not images.numel():
            raise ValueError(f"{split}_images is not uint8 [N, {len(mean)}, H, W]")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"{split}_labels is not int64 [{len(images)}]")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError(f"{split}_labels has labels outside of 0 to {len(classes) - 1}")
    if len({tensors[f"{split}_images"].shape[1:] for split in splits}) > 1:
        raise ValueError("the images of its splits differ in shape")


def load(
    path: Path,
    device: torch.device | str,
    splits: Iterable[str] = ("train", "validation"),
    made_by: str = "python stages/prepare_data.py",
) -> Dataset:
    """The named splits of the prepared file, on ``device``; the others are not read.

    Raises ``DataError`` naming ``made_by``, the command that makes the file, if it is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()[METADATA_KEY])
            tensors = {
                name: file.get_tensor(name).to(device)
                for name in ("mean", "std", *(f"{split}_{part}" for split in splits for part in ("images", "labels")))
            }
        _check(tensors, metadata["classes"], splits)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `{made_by}` makes it") from None
    except (OSError, SafetensorError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is damaged ({error}); `{made_by}` makes it again") from None
    return Dataset(
        {split: Split(tensors[f"{split}_images"], tensors[f"{split}_labels"]) for split in splits},
        tensors["mean"],
        tensors["std"],
        tuple(metadata["classes"]),
    )
