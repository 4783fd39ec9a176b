"""The user's own images: which files are images, which folders are classes or splits, and the files as tensors."""

import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from prunus.data.dataset import DataError, Split
from prunus.sources.splits import Source

# Only these formats: PIL chooses a reader by content, and would give PostScript, a program, to an interpreter.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")  # the first of these that exists is the test set
ANNOTATIONS = "val_annotations.txt"
CHUNK = 32  # images that a thread decodes at a time


def read(root: Path, side: int) -> Source:
    """The images in ``root``, one folder per class, as RGB of side x side pixels (the largest centred square, resized).

    Layouts: class folders right under ``root``; or under ``train``, with test images in class folders under a folder of
    ``TEST`` or, as in TinyImageNet, in ``val/images`` beside val_annotations.txt. Images lie at any depth in a class
    folder; hidden files and files that are not images do not count. Files are decoded when ``images`` are indexed.
    Raises ``DataError`` for files that cannot be read or that DVC would not watch, and for an ambiguous layout.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; data.image_folder.path must name the folder of your images")
    look = _Look(root)
    folders, files = look.into(root)
    train, tests = _split(root, folders) or (root, [])
    if train != root:
        look.past(files, "outside of the class folders")
        folders, files = look.into(train)
    look.past(files, "outside of the class folders")
    if len(folders) < 2:
        raise DataError(_too_few(train, folders))
    classes = [folder.name for folder in folders]
    train_files, train_labels = look.labelled(folders, classes)
    test, test_files = None, []
    if tests:
        test_files, test_labels = _test(look, tests, classes)
        test = Split(Pictures(test_files, side), torch.tensor(test_labels))
    return Source(
        Split(Pictures(train_files, side), torch.tensor(train_labels)),
        test,
        tuple(classes),
        [str(path.relative_to(root)) for path in train_files + test_files],
        {kind: sorted(names) for kind, names in look.passed_over.items()},
    )


def is_image(path: Path) -> bool:
    """By suffix, so that a damaged image is refused and not passed over; with any other suffix by content."""
    from PIL import Image

    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(file, formats=FORMATS):
                return True
        except Image.DecompressionBombError:
            return True
        except Exception:  # PIL's readers raise many kinds of errors on other files
            return False


class _Look:
    """Walks the folders of ``root`` and keeps the names of files and folders that are passed over, by kind."""

    def __init__(self, root: Path):
        self.root, self.passed_over = root, {}

    def note(self, kind: str, path: Path) -> None:
        self.passed_over.setdefault(kind, []).append(str(path.relative_to(self.root)))

    def past(self, files: list[Path], where: str) -> None:
        """Note ``files`` in places where images are not used."""
        for path in files:
            self.note(f"image {where}" if is_image(path) else "no image", path)

    def into(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The folders and files right in ``folder``, by name, without hidden ones.

        Links to files are followed, also by DVC. Entries that DVC would not watch, or wait for forever, are refused.
        """
        folders, files = [], []
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path, linked = folder / entry.name, entry.is_symlink()
                if entry.name == ".dvc" and folder != self.root:
                    raise DataError(f"{folder}: is a separate DVC project, so DVC does not watch it; move it")
                if entry.name == ".dvcignore":
                    raise DataError(f"{path}: tells DVC not to watch some of the images; remove it")
                if entry.name.startswith("."):
                    self.note("hidden", path)
                elif linked and path.is_dir():
                    raise DataError(
                        f"{path}: is a link to a folder, which DVC would not watch; copy the folder here, or let "
                        "data.image_folder.path name a folder without such links"
                    )
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif path.is_file() if linked else entry.is_file(follow_symlinks=False):
                    files.append(path)
                else:
                    raise DataError(f"{path}: leads nowhere or is not a file; remove it")
        return folders, files

    def below(self, folder: Path) -> list[Path]:
        """The images at any depth in ``folder``, in the order of their paths."""
        images, waiting = [], [folder]
        while waiting:
            folders, files = self.into(waiting.pop())
            waiting += folders
            for path in files:
                images.append(path) if is_image(path) else self.note("no image", path)
        return sorted(images, key=lambda path: path.parts)

    def labelled(self, folders: list[Path], classes: list[str]) -> tuple[list[Path], list[int]]:
        """The images of class folders and their labels. Raises ``DataError`` for a folder without images."""
        files, labels = [], []
        for folder in folders:
            images = self.below(folder)
            if not images:
                raise DataError(f"{folder}: holds no images; add some or remove the folder")
            files += images
            labels += [classes.index(folder.name)] * len(images)
        return files, labels


def _split(root: Path, folders: list[Path]) -> tuple[Path, list[Path]] | None:
    """The folder of training images and those of test images, the one to use first; None if ``folders`` are classes.

    A split is a training folder and test folders with nothing else beside them. Raises ``DataError`` if the names and
    the content contradict each other.
    """
    train = [folder for folder in folders if folder.name.lower() in TRAIN]
    tests = [folder for name in TEST for folder in folders if folder.name.lower() == name]
    only_splits = len(train) == 1 and tests and len({folder.name.lower() for folder in tests}) == len(folders) - 1
    names = ", ".join(f"{folder.name}/" for folder in folders[:5]) + (", ..." if len(folders) > 5 else "")
    if only_splits and _holds_classes(train[0]):
        return train[0], tests
    if only_splits:
        raise DataError(
            f"{root}: is either a split whose {train[0].name}/ holds fewer than 2 class folders, or {len(folders)} "
            f"classes ({names}); put class folders into each, or rename the classes"
        )
    if len(folders) > 1 and (holding := [folder for folder in train + tests if _holds_classes(folder)]):
        holding_names = ", ".join(f"{folder.name}/" for folder in holding)
        raise DataError(
            f"{root}: is either a split (class folders in {holding_names}) or {len(folders)} classes ({names}); for a "
            f"split keep only train/ and test/ or val/ there, for classes keep no folders in {holding_names}"
        )
    return None


def _holds_classes(folder: Path) -> bool:
    return sum(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir()) > 1


def _too_few(folder: Path, folders: list[Path]) -> str:
    message = f"{folder}: holds {len(folders)} class folder(s); at least 2 are needed, one per class"
    if folders and _holds_classes(folders[0]):
        return f"{message}; should data.image_folder.path name {folders[0]}?"
    if not folders:  # as in a scratch copy whose images neither git nor DVC knows
        message += "; an experiment beside the workspace has only images added with `dvc add` (data/images/README.md)"
    return message


def _test(look: _Look, folders: list[Path], classes: list[str]) -> tuple[list[Path], list[int]]:
    used = next((folder for folder in folders if (folder / ANNOTATIONS).is_file()), folders[0])
    for folder in folders:
        if folder != used:
            look.note(f"folder beside {used.name}/", folder)
    if (used / ANNOTATIONS).is_file():
        return _annotated(look, used, classes)
    inside, files = look.into(used)
    look.past(files, "outside of the class folders")
    for folder in inside:
        if folder.name not in classes:
            raise DataError(f"{folder}: this class has no training images; add some or remove the folder")
    if not inside:
        raise DataError(f"{used}: holds no images in class folders; add them or remove the folder")
    return look.labelled(inside, classes)


def _annotated(look: _Look, folder: Path, classes: list[str]) -> tuple[list[Path], list[int]]:
    """The files and classes in TinyImageNet's annotations: a line is file, class and four numbers, tab-separated."""
    table, images, labels = folder / ANNOTATIONS, folder / "images", {}
    inside, files = look.into(folder)
    look.past([path for path in files if path != table], "outside of images/")
    for other in inside:
        if other != images:
            look.note("folder beside images/", other)
    image_files = look.into(images)[1] if images in inside else []
    names = {path.name for path in image_files}
    for number, line in enumerate(table.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        if name not in classes:
            raise DataError(
                f"{table}, line {number}: {name!r} is not a class folder of the training images; correct it"
            )
        if file != Path(file).name:
            raise DataError(f"{table}, line {number}: {file!r} is not a file name in {images}; correct it")
        if file not in names:
            raise DataError(f"{images / file}: no such file; add it, or remove its line in {ANNOTATIONS}")
        if file in labels:
            raise DataError(f"{table}, line {number}: {file!r} is named twice; remove one of the lines")
        labels[file] = classes.index(name)
    if not labels:
        raise DataError(f"{table}: is empty; restore it, or remove it if the folder has class folders")
    look.past([path for path in image_files if path.name not in labels], f"that {ANNOTATIONS} does not name")
    return [images / file for file in labels], list(labels.values())


class Pictures:
    """Image files, decoded when they are indexed: ``pictures[numbers]`` is uint8 [N, 3, side, side].

    All cores decode, each image separately, so that the result is the same as on one core.
    """

    def __init__(self, files: list[Path], side: int):
        self._files, self._side = files, side

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, numbers: Tensor) -> Tensor:
        from PIL import Image

        files = [self._files[number] for number in numbers.tolist()]
        try:
            images = torch.empty(len(files), 3, self._side, self._side, dtype=torch.uint8)
        except RuntimeError:
            size = f"{len(files):,} images of {self._side} x {self._side} pixels do not fit into memory"
            raise DataError(f"data.image_folder.side: {size}; lower it, or use fewer images") from None
        array = images.numpy()

        def decode(start: int) -> int:
            chunk = files[start : start + CHUNK]
            for index, path in enumerate(chunk, start):
                array[index] = _decoded(path, self._side)
            return len(chunk)

        Image.init()  # load all readers before threads start
        with (
            warnings.catch_warnings(),
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,  # PIL releases Python's lock to decode and resize
            tqdm(total=len(files), desc="images", unit="image", disable=not sys.stderr.isatty()) as bar,
        ):
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for count in pool.map(decode, range(0, len(files), CHUNK)):
                bar.update(count)
        return images


def _decoded(path: Path, side: int):
    """uint8 [3, side, side], upright; PIL's bilinear resizing averages over all pixels when it shrinks images."""
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with path.open("rb") as file:
            head = file.read(25)
            with Image.open(file, formats=FORMATS) as image:
                if _bits(image, head) > 8:
                    raise DataError(f"{path}: has more than 8 bits per channel; convert it to 8 bits")
                upright = ImageOps.exif_transpose(image)
                # Colours under transparency stay as stored; PIL warns if a palette is converted straight to RGB.
                opaque = (upright.convert("RGBA") if upright.has_transparency_data else upright).convert("RGB")
        fitted = ImageOps.fit(opaque, (side, side), Image.Resampling.BILINEAR)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; add it, or remove what names it") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{path}: has more than {Image.MAX_IMAGE_PIXELS:,} pixels; shrink or remove it") from None
    except Exception as error:  # PIL's decoders raise many kinds of errors on damaged files
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as an image ({reason}); replace or remove it") from None
    return np.asarray(fitted).transpose(2, 0, 1)


def _bits(image, head: bytes) -> int:
    """Bits per channel of the file (exact only as to whether more than 8): PIL cuts 16 bits to 8 without a word.

    ``head``: the file's first bytes.
    """
    from PIL.TiffImagePlugin import BITSPERSAMPLE

    if image.mode.startswith(("I", "F")):
        return 16
    if image.format == "PNG":
        return head[24]
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITSPERSAMPLE, (1,)))
    if image.format == "PPM":  # its decoder gets the largest value if that is not 255
        arguments = image.tile[0][3]
        return 8 if isinstance(arguments, str) or arguments[1] <= 255 else 16
    return 8
