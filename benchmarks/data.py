"""Real images as the stages hold them: the first ones of a dataset, on the device."""

import tempfile
from functools import cache
from pathlib import Path

import torch

import harness  # noqa: F401 - puts stages/ on the path
from prunus.data.dataset import Dataset, load, save
from prunus.sources import published
from prunus.study import layout

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RAW = layout.ROOT / layout.RAW_DATA


@cache
def dataset(name: str, images: int, validation: int = 2) -> Dataset:
    """The first ``images`` training images, on the device as the stages hold them."""
    source = published.read(name, RAW, Path(), 0)
    held_out = source.train if source.test is None else source.test
    parts = {"train": source.train[torch.arange(images)], "validation": held_out[torch.arange(validation)]}
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "prepared", name, parts, source.classes)
        return load(Path(folder) / "prepared", DEVICE)
