"""From a dataset's name to its prepared file: read, choose classes, split, write, report files that are not used."""

from pathlib import Path

from prunus.data import dataset
from prunus.data.dataset import DataError, Split
from prunus.run.record import Recorder
from prunus.sources import published
from prunus.sources.splits import Source, cut, of_classes, shared, with_test
from prunus.study import layout
from prunus.study.mistakes import printable
from prunus.study.schema import ImageFolder

PRINTED = 3  # names of a kind in a printed line
RECORDED = 100  # names of a kind in the record


def prepare(
    name: str,
    path: Path,
    image_folder: ImageFolder,
    recorder: Recorder,
    *,
    classes: str | list[int],
    fraction: float,
    imbalance: float,
    test_fraction: float,
    validation_fraction: float,
    seed: int,
) -> str:
    """Write dataset ``name`` of the catalogue to ``path``; return lines about it, the last one with its sizes.

    ``image_folder`` is used if it is the dataset; the rest as in the ``data`` block of params.yaml. The lines before
    the last, and ``images`` in the record, name the files passed over, the images that are in two splits, and the
    classes without test images. Raises ``DataError`` for missing or unusable images and for classes that are too small.
    """
    with recorder.clock.time("read"):
        source = published.read(name, layout.RAW_DATA, Path(image_folder.path), image_folder.side)
        numbered = of_classes(with_test(source.numbered(), test_fraction, seed), classes)
        numbers = cut(numbered, test_fraction, validation_fraction, seed, fraction, imbalance)
        if not len(numbers["test"].labels):
            raise DataError(f"{name}: has no test images of {', '.join(numbered.classes)}; add some")
        splits = {split: Split(source.images(part.images), part.labels) for split, part in numbers.items()}
    dataset.save(path, name, splits, numbered.classes)
    passed_over = source.passed_over
    twice = _in_two_splits(source, numbers, splits)
    tested = set(splits["test"].labels.tolist())
    untested = [class_name for label, class_name in enumerate(numbered.classes) if label not in tested]
    recorder.measured["images"] = {
        "passed_over": {kind: _recorded(names) for kind, names in passed_over.items()},
        "in_two_splits": _recorded(twice),
        "classes_without_test_images": _recorded(untested),
    }
    lines = []
    if passed_over:
        lines.append("passed over: " + "; ".join(f"{kind}: {_printed(names)}" for kind, names in passed_over.items()))
    if twice:
        lines.append(f"in two splits, pixel for pixel: {_printed(twice)}")
    if untested:
        lines.append(f"classes without test images: {_printed(untested)}")
    sizes = ", ".join(f"{len(splits[split].labels)} {split}" for split in dataset.SPLITS)
    shape = "x".join(map(str, splits["train"].images.shape[1:]))
    return "\n".join([*lines, f"{name}: {sizes} images of {shape}, {len(numbered.classes)} classes, in {path}"])


def _in_two_splits(source: Source, numbers: dict[str, Split], splits: dict[str, Split]) -> list[str]:
    def name_of(split: str, position: int) -> str:
        number = int(numbers[split].images[position])
        return f"{source.names[number]} in {split}" if source.names else f"{split} image {position}"

    return [f"{name_of(*later)} = {name_of(*earlier)}" for later, earlier in shared(splits)]


def _printed(names: list[str]) -> str:
    more = ", ..." if len(names) > PRINTED else ""
    return printable(f"{len(names):,} ({', '.join(names[:PRINTED])}{more})")


def _recorded(names: list[str]) -> dict:
    return {"count": len(names), "names": names[:RECORDED]}
