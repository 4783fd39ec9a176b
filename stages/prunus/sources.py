"""Readers of the datasets as published: digits, MNIST, Fashion-MNIST, CIFAR-10/100 and a folder of images."""

import http.client
import socket
import sys
import tarfile
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from prunus.datasets import DataError, Source, Split

# torchvision checks what it downloads, but not the unpacked files it then reads. MD5 of the published ones:
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
# What a download can end in: no network, refused, cut off, not what was published, no room.
DOWNLOAD_ERRORS = (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zlib.error)
DOWNLOAD_TIMEOUT = 60  # seconds without an answer; torchvision sets none and would wait for ever

# The formats of these names and no others: PIL goes by the content, and hands PostScript to an interpreter of programs.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
ANNOTATIONS = "val_annotations.txt"


def read(name: str, raw: Path, folder: Path, side: int) -> Source:
    """Read dataset ``name`` of the catalogue.

    Arguments: ``raw`` where torchvision's datasets lie, downloaded when absent; ``folder`` and ``side`` of
    image_folder. Raises ``DataError`` for what is missing, damaged or of no use.
    """
    try:
        if name == "digits":
            return _digits()
        if name == "image_folder":
            return image_folder(folder, side)
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
    """1797 digits of 8x8 pixels that come with scikit-learn; their grey levels 0..16 become 0..255."""
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
def _downloading(wanted: Path, folder: Path):
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        yield
    except DOWNLOAD_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{wanted}: is missing or damaged and could not be downloaded ({reason}); "
            f"with a network delete {folder} and try again, without one put the published files there"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _idx(published: type, raw: Path) -> Source:
    """MNIST and Fashion-MNIST, read from the unpacked files once their MD5 is right."""
    from torchvision.datasets.mnist import read_image_file, read_label_file
    from torchvision.datasets.utils import check_integrity

    folder, table = raw / published.__name__ / "raw", IDX_MD5[published.__name__]
    missing = [folder / file for file in table if not (folder / file).is_file()]
    if missing:
        with _downloading(missing[0], folder):
            wanted = published.__new__(published)  # not by its constructor, which unpickles what an old version left
            wanted.root = raw
            wanted.download()
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


def image_folder(folder: Path, side: int) -> Source:
    """The user's images, one folder per class, as RGB of side x side pixels (the largest centred square, resized).

    Layouts: class folders right under ``folder``, or under ``folder/train``, with test images in class folders under
    ``folder/test`` or else ``folder/val``, or as in TinyImageNet in ``folder/val/images`` beside val_annotations.txt.
    Folders are searched to any depth; hidden files and files that are no images are passed over.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; data.image_folder.path must name the folder of your images")
    train_folder = folder / "train" if (folder / "train").is_dir() else folder
    classes = _class_folders(train_folder)
    if len(classes) < 2:
        raise DataError(f"{train_folder}: holds {len(classes)} class folder(s); at least 2 are needed, one per class")
    train = _files_by_class(train_folder, classes)
    filled = {label for _, label in train}
    for label, name in enumerate(classes):
        if label not in filled:
            raise DataError(f"{train_folder / name}: holds no images; add some or remove the folder")
    test = _test_files(folder, classes) if train_folder != folder else None
    return Source(
        _load(train, side, "training images"), _load(test, side, "test images") if test else None, tuple(classes)
    )


def _test_files(folder: Path, classes: list[str]) -> list[tuple[Path, int]] | None:
    if (folder / "val" / ANNOTATIONS).is_file():
        return _annotated(folder / "val", classes)
    test_folder = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if test_folder is None:
        return None
    for name in _class_folders(test_folder):
        if name not in classes:
            raise DataError(f"{test_folder / name}: {folder / 'train'} has no such class; remove the folder or add one")
    files = _files_by_class(test_folder, classes)
    if not files:
        raise DataError(f"{test_folder}: holds no images in class folders; add them or remove the folder")
    return files


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files_by_class(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    return [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    ]


def _annotated(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Files and classes that TinyImageNet's annotations name: a line is file, class and four numbers, tab-separated."""
    table, labels, files = folder / ANNOTATIONS, {name: label for label, name in enumerate(classes)}, []
    for number, line in enumerate(table.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        if name not in labels:
            raise DataError(f"{table}, line {number}: {name!r} is no class folder of the training images; correct it")
        if file != Path(file).name:
            raise DataError(f"{table}, line {number}: {file!r} is no name of a file in {folder / 'images'}; correct it")
        files.append((folder / "images" / file, labels[name]))
    if not files:
        raise DataError(f"{table}: is empty; restore it, or remove it if the folder has class folders")
    return files


def _load(files: list[tuple[Path, int]], side: int, what: str) -> Split:
    from PIL import Image

    try:
        images = torch.empty(len(files), 3, side, side, dtype=torch.uint8)
    except RuntimeError:
        size = f"{len(files):,} images of {side} x {side} pixels do not fit into memory"
        raise DataError(f"data.image_folder.side: {size}; lower it, or use fewer images") from None
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for index, (path, _) in enumerate(tqdm(files, what, unit="image", disable=not sys.stderr.isatty())):
            images[index] = _load_image(path, side)
    return Split(images, torch.tensor([label for _, label in files]))


def _load_image(path: Path, side: int) -> torch.Tensor:
    """uint8 [3, side, side], upright; PIL's bilinear resizing averages over all pixels when it makes images smaller."""
    import numpy as np
    from PIL import Image, ImageOps

    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is not a file; rename or remove it")  # opening a pipe would wait for ever
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{path}: has more than 8 bits per channel (mode {image.mode}); convert it to 8 bits")
            upright = ImageOps.exif_transpose(image)
            # Colours under transparency stay as stored; straight from a palette to RGB, PIL warns about it.
            opaque = (upright.convert("RGBA") if upright.has_transparency_data else upright).convert("RGB")
        fitted = ImageOps.fit(opaque, (side, side), Image.Resampling.BILINEAR)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; add it, or remove what names it") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{path}: has more than {Image.MAX_IMAGE_PIXELS:,} pixels; shrink or remove it") from None
    except Exception as error:  # PIL's decoders raise errors of many kinds on damaged files
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as an image ({reason}); replace or remove it") from None
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)
