"""Folders of images for the tests of what is read from one."""

import io
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from hostile import refusal
from prunus.data.dataset import DataError, Split
from prunus.sources import published
from prunus.sources.splits import Source

SIDE = 8
NOWHERE = Path("nowhere")
COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


def encoded(kind: str = "PNG", level: int = 90, mode: str = "L") -> bytes:
    """The file of an image of 8x8 pixels of one grey level."""
    content = io.BytesIO()
    Image.new(mode, (8, 8), level).save(content, kind)
    return content.getvalue()


def put(root: Path, *names: str, content: bytes | None = None) -> None:
    """An image under each of the names, or ``content``."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded() if content is None else content)


def paint(path: Path, colour: tuple = (9, 9, 9), size: tuple = (12, 10), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def paint_classes(folder: Path, n: int, suffix: str = ".png") -> Path:
    """A folder with ``n`` images of each class, all of the class's colour."""
    for name, colour in COLOURS.items():
        for index in range(n):
            paint(folder / name / f"{index}{suffix}", colour)
    return folder


def read(folder: Path, side: int = SIDE) -> Source:
    """The images of a folder, which are decoded when they are indexed."""
    return published.read("image_folder", NOWHERE, folder, side)


def images_in(folder: Path, side: int = SIDE) -> Source:
    """The images of a folder, decoded."""
    source = read(folder, side)

    def all_of(part: Split | None) -> Split | None:
        return part and Split(part.images[torch.arange(len(part.labels))], part.labels)

    return replace(source, train=all_of(source.train), test=all_of(source.test))


def decoded(source: Source) -> Tensor:
    """The training images of what ``read`` returned."""
    return source.train.images[torch.arange(len(source.train.labels))]


def refused(folder: Path) -> str:
    """Why the images of a folder cannot be used, in one line."""
    return refusal(images_in, folder, error=DataError, longest=1500)  # a file's name may have 255 characters


def names(path: Path, message: str) -> bool:
    return message.startswith(f"{path}: ")
