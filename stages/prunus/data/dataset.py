"""The prepared dataset: one file of uint8 images and labels per split, made once and kept whole on the device."""

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

# safetensors writes its metadata in random order; with everything under one key equal data are equal bytes.
METADATA_KEY = "prunus"
GREY_LEVELS = 256


class DataError(StageError):
    """Images that cannot be had or used; the message is one line that names the file and says what to do."""


@dataclass(frozen=True, eq=False)
class Split:
    """``images`` uint8 [N, C, H, W] and ``labels`` int64 [N], class indices."""

    images: Tensor
    labels: Tensor

    def __getitem__(self, chosen: Tensor) -> "Split":
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Whole splits on one device, and how to normalise them.

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
        """Channels, side in pixels and number of classes: what a network is built for."""
        return self.shape[0], self.shape[1], self.n_classes

    @cached_property
    def _scale(self) -> Tensor:
        return (1 / (255 * self.std))[:, None, None]

    @cached_property
    def _shift(self) -> Tensor:
        return (-self.mean / self.std)[:, None, None]

    def normalise(self, images: Tensor) -> Tensor:
        """(images / 255 - mean) / std as float32, of uint8 images [N, C, H, W] on the dataset's device."""
        return (images * self._scale).add_(self._shift)

    def sample(self, split: str, n: int, seed: int) -> Split:
        """``n`` different images of ``split``, or all where it has fewer; drawn on the CPU, the same on any device."""
        whole = self.splits[split]
        order = torch.randperm(len(whole.labels), generator=torch.Generator().manual_seed(seed))
        return whole[order[:n].to(whole.labels.device)]

    def part(self, split: str, fraction: float, seed: int) -> "Dataset":
        """The same dataset with ``fraction`` of every class of ``split``, rounded, at least one image; the order stays.

        Drawn on the CPU, the same on any device. At one seed a smaller part lies within a larger one.
        """
        whole = self.splits[split]
        stays = drawn(whole.labels.cpu(), dict.fromkeys(range(self.n_classes), fraction), seed, fewest=1)
        return replace(self, splits=self.splits | {split: whole[stays.to(whole.labels.device)]})


def drawn(labels: Tensor, shares: dict[int, float], seed: int, fewest: int = 0) -> Tensor:
    """Bool [N]: which images of each class are drawn, its share rounded, ``fewest`` at least where there are."""
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
    for some in images.split(1024):  # a channel of all of them would be a copy
        counts += torch.stack([channel.flatten().bincount(minlength=GREY_LEVELS) for channel in some.unbind(1)])
    shares = counts.double() / counts.sum(1, keepdim=True)
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    return mean.float(), variance.sqrt().clamp(min=1 / (GREY_LEVELS - 1)).float()


def save(path: Path, name: str, splits: dict[str, Split], classes: Iterable[str]) -> None:
    """Write the prepared file, whole or not at all; equal content gives equal bytes.

    Tensors ``<split>_images`` uint8 [N, C, H, W], ``<split>_labels`` int64 [N], ``mean`` and ``std`` float32 [C];
    metadata: JSON with the dataset's name and its classes' names. Raises ``DataError`` where it cannot be written.
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
    """Raises ``ValueError`` where ``tensors`` are not what ``save`` writes."""
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise ValueError("its classes are no list of names")
    mean, std = tensors["mean"], tensors["std"]
    if mean.dim() != 1 or any(values.dtype != torch.float32 or values.shape != mean.shape for values in (mean, std)):
        raise ValueError("mean and std are no float32 values per channel")
    if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
        raise ValueError("mean and std are not finite, or std is not above 0")
    for split in splits:
        images, labels = tensors[f"{split}_images"], tensors[f"{split}_labels"]
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != len(mean) or not images.numel():
            raise ValueError(f"{split}_images is no uint8 [N, {len(mean)}, H, W]")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"{split}_labels is no int64 [{len(images)}]")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise ValueError(f"{split}_labels holds labels outside of 0 to {len(classes) - 1}")
    if len({tensors[f"{split}_images"].shape[1:] for split in splits}) > 1:
        raise ValueError("its splits have images of different shapes")


def load(
    path: Path,
    device: torch.device | str,
    splits: Iterable[str] = ("train", "validation"),
    made_by: str = "python stages/prepare_data.py",
) -> Dataset:
    """The named splits of the prepared file, on ``device``; the others are not read.

    Raises ``DataError`` when the file is missing or damaged, naming ``made_by``, the command that makes it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()[METADATA_KEY])
            tensors = {
                name: file.get_tensor(name).to(device)
                for name in ("mean", "std", *(f"{split}_{part}" for split in splits for part in ("images", "labels")))
            }
        _check(tensors, about["classes"], splits)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `{made_by}` makes it") from None
    except (OSError, SafetensorError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is damaged ({error}); `{made_by}` makes it again") from None
    return Dataset(
        {split: Split(tensors[f"{split}_images"], tensors[f"{split}_labels"]) for split in splits},
        tensors["mean"],
        tensors["std"],
        tuple(about["classes"]),
    )
