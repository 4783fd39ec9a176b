"""Readers of the published datasets (digits, MNIST, Fashion-MNIST, CIFAR-10/100); `read` also reads an image folder."""

import http.client
import socket
import tarfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import torch

from prunus.data.dataset import DataError, Split
from prunus.sources import image_folder
from prunus.sources.splits import Source

# MD5 of the published unpacked files: torchvision checks its downloads, but not the unpacked files that it reads.
IDX_MD5 = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
TORCHVISION_NAMES = {
    "mnist": "MNIST",
    "fashion_mnist": "FashionMNIST",
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
}
# The errors of a download: no network, refused, cut off, not the published file, disk full.
DOWNLOAD_ERRORS = (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error)
DOWNLOAD_TIMEOUT = 60  # seconds without an answer; torchvision sets no timeout and would wait forever


def read(name: str, raw: Path, folder: Path, side: int) -> Source:
    """Read dataset ``name`` of the catalogue.

    Arguments: ``raw``, the folder of torchvision's datasets, downloaded if missing; ``folder`` and ``side`` of
    image_folder. Raises ``DataError`` for files that are missing, damaged or unusable.
    """
    try:
        if name == "digits":
            return _digits()
        if name == "image_folder":
            return image_folder.read(folder, side)
        return _published(name, raw)
    except OSError as error:
        raise DataError(f"{error.filename or name}: cannot be read ({error.strerror or error})") from None


def _published(name: str, raw: Path) -> Source:
    try:
        from torchvision import datasets as published
    except ImportError as error:
        raise DataError(f"study.dataset: {name} is read with torchvision, which cannot be imported ({error})") from None
    dataset = getattr(published, TORCHVISION_NAMES[name])
    return _idx(dataset, raw) if dataset.__name__ in IDX_MD5 else _cifar(dataset, raw)


def _digits() -> Source:
    """The 1797 digits of 8x8 pixels from scikit-learn; their grey levels 0..16 become 0..255."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            f"study.dataset: digits comes with scikit-learn, which cannot be imported ({error}); "
            "install it, or copy data/prepared from a machine that has it"
        ) from None
    digits = load_digits()
    images = (torch.from_numpy(digits.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    return Source(Split(images, torch.from_numpy(digits.target).long()), None, tuple(map(str, digits.target_names)))


@contextmanager
def _downloading(missing: Path, folder: Path):
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    except DOWNLOAD_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{missing}: is missing or damaged and could not be downloaded ({reason}); "
            f"with a network, delete {folder} and try again; without one, put the published files there"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _idx(published: type, raw: Path) -> Source:
    """MNIST and Fashion-MNIST, read from the unpacked files after a check of their MD5."""
    from torchvision.datasets.mnist import read_image_file, read_label_file
    from torchvision.datasets.utils import check_integrity

    folder, table = raw / published.__name__ / "raw", IDX_MD5[published.__name__]
    missing = [folder / file for file in table if not (folder / file).is_file()]
    if missing:
        with _downloading(missing[0], folder):
            dataset = published.__new__(published)  # the constructor would unpickle files of an old version
            dataset.root = raw
            dataset.download()
    for file, md5 in table.items():
        if not check_integrity(folder / file, md5):
            raise DataError(f"{folder / file}: is not the published file (its MD5 differs); delete it and try again")
    train, test = (
        Split(
            read_image_file(folder / f"{part}-images-idx3-ubyte").unsqueeze(1),
            read_label_file(folder / f"{part}-labels-idx1-ubyte").long(),
        )
        for part in ("train", "t10k")
    )
    return Source(train, test, tuple(published.classes))


def _cifar(published: type, raw: Path) -> Source:
    """CIFAR-10 and CIFAR-100; torchvision checks the MD5 of every file before it unpickles it."""
    from torchvision.datasets.utils import check_integrity

    folder = raw / published.base_folder
    files = [*published.train_list, *published.test_list, (published.meta["filename"], published.meta["md5"])]
    damaged = [folder / file for file, md5 in files if not check_integrity(folder / file, md5)]
    with _downloading(damaged[0] if damaged else folder, folder):
        train, test = published(raw, train=True, download=bool(damaged)), published(raw, train=False)
    return Source(_from_hwc(train), _from_hwc(test), tuple(train.classes))


def _from_hwc(part) -> Split:
    return Split(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
