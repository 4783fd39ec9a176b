"""From a dataset's name to its prepared file: read, choose classes, cut the splits, write."""

from pathlib import Path

from prunus import datasets, layout, sources
from prunus.params import ImageFolder
from prunus.runtime import Clock


def prepare(
    name: str,
    path: Path,
    image_folder: ImageFolder,
    clock: Clock,
    *,
    classes: str | list[int],
    fraction: float,
    imbalance: float,
    test_fraction: float,
    validation_fraction: float,
    seed: int,
) -> str:
    """Write dataset ``name`` of the catalogue to ``path`` and say in a line what it holds.

    ``image_folder`` is read when that is the dataset; the rest as in the ``data`` block of params.yaml. Raises
    ``DataError`` for images that cannot be had or classes that are too small.
    """
    with clock.time("read"):
        folder = Path(image_folder.path).expanduser()
        source = sources.read(name, layout.RAW_DATA, folder, image_folder.side)
    source = datasets.of_classes(datasets.with_test(source, test_fraction, seed), classes)
    splits = datasets.cut(source, test_fraction, validation_fraction, seed, fraction, imbalance)
    datasets.save(path, name, splits, source.classes)
    sizes = ", ".join(f"{len(splits[split].labels)} {split}" for split in datasets.SPLITS)
    shape = "x".join(map(str, splits["train"].images.shape[1:]))
    return f"{name}: {sizes} images of {shape}, {len(source.classes)} classes, in {path}"
