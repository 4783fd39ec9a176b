"""Datasets: readers, splits, the prepared file, and one line for everything that can be wrong with it."""

import json
import os
import runpy
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

from prunus.data import dataset as dataset_module
from prunus.data.dataset import SPLITS, DataError, Split, load, mean_and_std, save
from prunus.run.seeds import derive_seed
from prunus.sources import published
from prunus.sources import splits as splits_module
from prunus.sources.splits import Source, _cut, of_classes, shared, with_test
from prunus.study import layout

SIDE = 8
NOWHERE = Path("nowhere")
COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


@pytest.fixture(scope="module")
def digits() -> Source:
    return published.read("digits", NOWHERE, NOWHERE, 0)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def paint(path: Path, colour: tuple = (9, 9, 9), size: tuple = (12, 10), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)
    return path


def paint_classes(folder: Path, n: int, suffix: str = ".png") -> Path:
    for name, colour in COLOURS.items():
        for index in range(n):
            paint(folder / name / f"{index}{suffix}", colour)
    return folder


def images_in(folder: Path, side: int = SIDE) -> Source:
    """The images of a folder, decoded."""
    source = published.read("image_folder", NOWHERE, folder, side)

    def decoded(part: Split | None) -> Split | None:
        return part and Split(part.images[torch.arange(len(part.labels))], part.labels)

    return replace(source, train=decoded(source.train), test=decoded(source.test))


def counts(split: Split) -> list[int]:
    return split.labels.bincount().tolist()


def prepare(source: Source, path: Path, seed: int = 0) -> bytes:
    save(path, "some", splits_module.cut(source, 0.2, 0.1, seed), source.classes)
    return path.read_bytes()


def refusal(call, *args) -> str:
    with pytest.raises(DataError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def names(path: Path, message: str) -> bool:
    return message.startswith(f"{path}: ")


# The splits and the prepared file


def test_digits_from_reader_to_device(digits, tmp_path):
    path = tmp_path / "prepared" / "dataset.safetensors"
    prepare(digits, path)
    dataset = load(path, "cpu", SPLITS)
    assert {name: len(split.labels) for name, split in dataset.splits.items()} == {
        "train": 1293,
        "validation": 145,
        "test": 359,
    }
    for split in dataset.splits.values():
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
    assert dataset.shape == (1, 8, 8)
    assert dataset.form == (1, 8, 10)
    assert dataset.classes == tuple("0123456789")
    assert dataset.splits["train"].images.max() == 255
    assert os.listdir(path.parent) == [path.name]


def test_normalised_training_images_have_mean_0_and_deviation_1(digits, tmp_path):
    prepare(digits, tmp_path / "file")
    dataset = load(tmp_path / "file", "cpu")
    images = dataset.splits["train"].images
    before = images.clone()
    normalised = dataset.normalise(images)
    assert normalised.dtype == torch.float32
    assert torch.allclose(normalised, (images / 255 - dataset.mean[0]) / dataset.std[0], atol=1e-6)
    assert abs(normalised.mean()) < 1e-5
    assert abs(normalised.std(correction=0) - 1) < 1e-5
    assert torch.equal(images, before)


def test_mean_and_std_per_channel():
    images = torch.randint(0, 256, (50, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = mean_and_std(images)
    assert torch.allclose(mean, (images / 255).mean((0, 2, 3)))
    assert torch.allclose(std, (images / 255).std((0, 2, 3), correction=0))


def test_constant_channel_stays_finite():
    mean, std = mean_and_std(torch.full((4, 1, 2, 2), 51, dtype=torch.uint8))
    assert mean.item() == pytest.approx(0.2)
    assert std.item() == pytest.approx(1 / 255)


def test_splits_share_the_images_out_class_by_class(digits):
    splits = splits_module.cut(digits, 0.2, 0.1, 0)
    whole = counts(digits.train)
    for before, test in zip(whole, counts(splits["test"]), strict=True):
        assert abs(test - 0.2 * before) <= 0.5
    for before, test, validation in zip(whole, counts(splits["test"]), counts(splits["validation"]), strict=True):
        assert abs(validation - 0.1 * (before - test)) <= 0.5
    numbered = Source(Split(torch.arange(len(digits.train.labels)), digits.train.labels), None, digits.classes)
    parts = [split.images for split in splits_module.cut(numbered, 0.2, 0.1, 0).values()]
    assert torch.equal(torch.cat(parts).sort().values, numbered.train.images)


def test_a_test_set_of_its_own_is_left_alone(digits):
    source = Source(digits.train, digits.train[torch.arange(7)], digits.classes)
    splits = splits_module.cut(source, 0.9, 0.1, 0)
    assert torch.equal(splits["test"].images, digits.train.images[:7])
    assert sum(len(splits[name].labels) for name in ("train", "validation")) == 1797


def test_bytes_depend_on_the_content_and_the_split_seed_only(digits, tmp_path):
    first = prepare(digits, tmp_path / "a", seed=1)
    assert all(prepare(digits, tmp_path / "b", seed=1) == first for _ in range(5))
    assert prepare(digits, tmp_path / "b", seed=2) != first


def test_prepared_file_says_what_it_holds(digits, tmp_path):
    prepare(digits, tmp_path / "file")
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert set(file.keys()) == {
            "mean",
            "std",
            *(f"{split}_{part}" for split in SPLITS for part in ("images", "labels")),
        }
        assert json.loads(file.metadata()["prunus"]) == {"dataset": "some", "classes": list("0123456789")}


def test_only_the_named_splits_are_read(digits, tmp_path):
    prepare(digits, tmp_path / "file")
    assert list(load(tmp_path / "file", "cpu").splits) == ["train", "validation"]
    assert list(load(tmp_path / "file", "cpu", splits=("test",)).splits) == ["test"]


def test_sample_draws_different_images_by_seed(digits, tmp_path):
    prepare(digits, tmp_path / "file")
    dataset = load(tmp_path / "file", "cpu")
    first, again, other = (dataset.sample("train", 100, seed) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    everything = dataset.sample("train", 10**6, 3)
    assert torch.equal(
        everything.images.flatten(1).unique(dim=0), dataset.splits["train"].images.flatten(1).unique(dim=0)
    )


def cut_in_two_steps(source, path):
    """The prepared file as without the choices of classes, fraction and imbalance."""
    rest, test = _cut(source.train, 0.2, 2, source.classes, derive_seed(0, "test"))
    train, validation = _cut(rest, 0.1, 1, source.classes, derive_seed(0, "validation"))
    save(path, "some", {"train": train, "validation": validation, "test": test}, source.classes)
    return path.read_bytes()


def test_a_part_of_a_split_is_class_by_class_within_a_larger_part_and_in_order(digits, tmp_path):
    prepare(digits, tmp_path / "a")
    whole = load(tmp_path / "a", "cpu", splits=("train", "test"))

    def pixels(data):
        return [image.numpy().tobytes() for image in data.splits["test"].images]

    tenth, half, other = whole.part("test", 0.1, 1), whole.part("test", 0.5, 1), whole.part("test", 0.1, 2)
    for part, fraction in ((tenth, 0.1), (half, 0.5)):
        sizes = [int(fraction * size + 0.5) for size in counts(whole.splits["test"])]
        assert counts(part.splits["test"]) == sizes and part.splits["train"] is whole.splits["train"]
        remaining = iter(pixels(whole))
        assert all(image in remaining for image in pixels(part))  # in order
    assert set(pixels(tenth)) < set(pixels(half)) and pixels(tenth) != pixels(other)
    assert counts(whole.part("test", 0.001, 1).splits["test"]) == [1] * 10
    assert pixels(whole.part("test", 1.0, 1)) == pixels(whole)


def test_everything_is_the_file_without_the_choices(digits, tmp_path):
    everything = of_classes(digits, "all")
    assert prepare(everything, tmp_path / "all") == cut_in_two_steps(digits, tmp_path / "plain")
    assert prepare(of_classes(digits, list(range(10))), tmp_path / "listed") == prepare(digits, tmp_path / "all")


def numbered(labels, test_labels=None) -> Source:
    """Images that are their own numbers, so that a test can follow them."""
    splits = [
        None if values is None else Split(torch.arange(len(values)).reshape(-1, 1, 1, 1), torch.tensor(values))
        for values in (labels, test_labels)
    ]
    return Source(*splits, tuple("abcdef"[: max(labels) + 1]))


def test_only_the_images_of_the_listed_classes_in_their_order():
    chosen = of_classes(numbered([0, 1, 2, 3, 0, 2], [3, 2, 1, 0]), [2, 0])
    assert chosen.classes == ("c", "a")
    assert (chosen.train.images.flatten().tolist(), chosen.train.labels.tolist()) == ([0, 2, 4, 5], [1, 0, 1, 0])
    assert (chosen.test.images.flatten().tolist(), chosen.test.labels.tolist()) == ([1, 3], [0, 1])
    assert of_classes(numbered([0, 1, 2]), [1, 2]).test is None


def test_a_class_has_the_same_test_images_whichever_others_are_listed(digits):
    source = with_test(digits, 0.2, 0)
    for classes in ([8, 9], [9, 2, 8]):
        test = splits_module.cut(of_classes(source, classes), 0.2, 0.1, 0)["test"]
        assert torch.equal(test.images[test.labels == classes.index(9)], source.test.images[source.test.labels == 9])


def test_a_class_that_does_not_exist():
    message = refusal(of_classes, numbered([0, 1, 2]), [0, 3])
    assert message == "classes: 3 is no class of the dataset; allowed: 0 to 2"


def images_of(splits: dict[str, Split], *names: str) -> set[int]:
    return {number for name in names for number in splits[name].images.flatten().tolist()}


@pytest.mark.parametrize("own_test", [True, False])
def test_a_fraction_of_the_training_images_of_every_class(own_test):
    source = numbered([0] * 100 + [1] * 60 + [2] * 40, [0, 1, 2] * 5 if own_test else None)
    whole, half, tenth = (splits_module.cut(source, 0.5, 0.1, 0, fraction) for fraction in (1.0, 0.5, 0.1))
    of_training = 1 if own_test else 0.5
    for splits, fraction in ((half, 0.5), (tenth, 0.1)):
        assert torch.equal(splits["test"].images, whole["test"].images)
        used = torch.cat([splits[name].labels for name in ("train", "validation")])
        assert used.bincount().tolist() == [round(fraction * of_training * n) for n in (100, 60, 40)]
    everything = [images_of(splits, "train", "validation") for splits in (tenth, half, whole)]
    assert everything[0] < everything[1] < everything[2]
    assert images_of(splits_module.cut(source, 0.5, 0.1, 1, 0.1), "train", "validation") != everything[0]


def test_the_long_tail_is_exponential():
    source = numbered([0, 1, 2] * 1000, [0, 1, 2])
    splits = splits_module.cut(source, 0.5, 0.1, 0, 0.8, 16.0)
    used = torch.cat([splits[name].labels for name in ("train", "validation")])
    assert used.bincount().tolist() == [800, 200, 50]
    assert counts(splits["validation"]) == [80, 20, 5]
    assert counts(splits["test"]) == [1, 1, 1]


@pytest.mark.parametrize(("fraction", "imbalance"), [(0.1, 1.0), (1.0, 10.0)])
def test_a_share_that_leaves_a_class_too_small(fraction, imbalance):
    source = numbered([0] * 50 + [1] * 10, [0, 1])
    message = refusal(splits_module.cut, source, 0.1, 0.1, 0, fraction, imbalance)
    assert message.startswith("class 'b': has 1 image(s) to cut the splits from and needs 2, one in each split;")
    assert "fraction, imbalance" in message


@pytest.mark.parametrize("own_test", [True, False])
def test_numbers_are_cut_as_the_images_are(own_test):
    source = numbered([0] * 100 + [1] * 60, [0, 1, 1] if own_test else None)
    cut = (0.5, 0.1, 0, 0.5, 2.0)
    images, numbers = splits_module.cut(source, *cut), splits_module.cut(source.numbered(), *cut)
    for split in SPLITS:
        assert torch.equal(source.images(numbers[split].images), images[split].images)
        assert torch.equal(numbers[split].labels, images[split].labels)


def test_images_in_two_splits_are_found_by_their_pixels():
    def split(*levels: int) -> Split:
        images = torch.tensor(levels, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
        return Split(images, torch.zeros(len(levels), dtype=torch.int64))

    splits = {"train": split(1, 2, 2, 3), "validation": split(4, 2, 4), "test": split(5, 4, 2, 5)}
    assert shared(splits) == [
        (("validation", 1), ("train", 1)),
        (("test", 1), ("validation", 0)),
        (("test", 2), ("train", 1)),
    ]


def blank(cats: int, dogs: int) -> Split:
    return Split(torch.zeros(cats + dogs, 1, 2, 2, dtype=torch.uint8), torch.tensor([0] * cats + [1] * dogs))


@pytest.mark.parametrize("dogs, test, needed", [(2, None, 3), (1, blank(1, 1), 2)])
def test_class_too_small_to_split(dogs, test, needed):
    source = Source(blank(5, dogs), test, ("cat", "dog"))
    message = refusal(splits_module.cut, source, 0.1, 0.1, 0)
    assert message.startswith(f"class 'dog': has {dogs} image(s)") and f"needs {needed}" in message


@pytest.mark.parametrize("fraction, test", [(0.99, [1, 7]), (0.01, [1, 1])])
def test_three_images_of_a_class_are_enough(fraction, test):
    splits = splits_module.cut(Source(blank(3, 9), None, ("cat", "dog")), fraction, 0.01, 0)
    assert counts(splits["test"]) == test
    assert counts(splits["validation"]) == [1, 1]
    assert min(counts(splits["train"])) == 1


def test_missing_prepared_file(tmp_path):
    message = refusal(load, tmp_path / "file", "cpu")
    assert str(tmp_path / "file") in message and "python stages/prepare_data.py" in message


@pytest.mark.parametrize("keep", [0, 4, 2000, -1])
def test_damaged_prepared_file(digits, tmp_path, keep):
    path = tmp_path / "file"
    path.write_bytes(prepare(digits, path)[:keep])
    message = refusal(load, path, "cpu")
    assert str(path) in message and "python stages/prepare_data.py" in message


def test_file_of_another_make(tmp_path):
    from safetensors.torch import save_file

    save_file({"mean": torch.zeros(1)}, tmp_path / "file")
    assert "is damaged" in refusal(load, tmp_path / "file", "cpu")


def test_a_failed_write_leaves_the_old_file(digits, tmp_path, monkeypatch):
    before = prepare(digits, tmp_path / "file")

    def fail(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(dataset_module, "save_file", fail)
    assert "no space left" in refusal(prepare, digits, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == before
    assert os.listdir(tmp_path) == ["file"]


# Image folders


def check_colours(split: Split, classes: tuple[str, ...]) -> None:
    for image, label in zip(split.images, split.labels, strict=True):
        assert tuple(image[:, 0, 0].tolist()) == COLOURS[classes[label]]
        assert (image == image[:, :1, :1]).all()


def test_classes_right_under_the_folder(tmp_path):
    paint_classes(tmp_path, 4)
    (tmp_path / "README.md").write_text("passed over")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "red" / "notes.txt").write_text("passed over")
    (tmp_path / "red" / "._0.png").write_text("passed over")
    source = images_in(tmp_path)
    assert source.classes == ("blue", "green", "red")
    assert source.test is None
    assert source.train.images.shape == (12, 3, SIDE, SIDE)
    check_colours(source.train, source.classes)


@pytest.mark.parametrize("name", ["test", "val"])
def test_train_and_test_folders(tmp_path, name):
    paint_classes(tmp_path / "train", 3)
    paint_classes(tmp_path / name, 2)
    source = images_in(tmp_path)
    assert (counts(source.train), counts(source.test)) == ([3, 3, 3], [2, 2, 2])
    check_colours(source.test, source.classes)


def test_test_folder_goes_before_val(tmp_path):
    paint_classes(tmp_path / "train", 3)
    paint_classes(tmp_path / "test", 2)
    paint_classes(tmp_path / "val", 1)
    assert counts(images_in(tmp_path).test) == [2, 2, 2]


def tiny_imagenet(folder: Path) -> Path:
    for name, colour in COLOURS.items():
        paint(folder / "train" / name / "images" / f"{name}_0.JPEG", colour)
        paint(folder / "train" / name / "images" / f"{name}_1.JPEG", colour)
        (folder / "train" / name / f"{name}_boxes.txt").write_text("passed over")
        paint(folder / "val" / "images" / f"val_{name}.JPEG", colour)
    paint(folder / "test" / "images" / "test_0.JPEG")
    lines = [f"val_{name}.JPEG\t{name}\t0\t32\t44\t62\n" for name in COLOURS]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def test_tiny_imagenet(tmp_path):
    source = images_in(tiny_imagenet(tmp_path))
    assert (counts(source.train), counts(source.test)) == ([2, 2, 2], [1, 1, 1])
    for image, label in zip(source.test.images, source.test.labels, strict=True):
        assert image[:, 0, 0].argmax() == np.argmax(COLOURS[source.classes[label]])


def test_annotation_of_an_unknown_class(tmp_path):
    table = tiny_imagenet(tmp_path) / "val" / "val_annotations.txt"
    table.write_text(table.read_text() + "val_0.JPEG\tpurple\t0\t0\t1\t1\n")
    message = refusal(images_in, tmp_path)
    assert f"{table}, line 4" in message and "'purple'" in message


def test_annotated_image_that_is_missing(tmp_path):
    gone = tiny_imagenet(tmp_path) / "val" / "images" / "val_red.JPEG"
    gone.unlink()
    assert f"{gone}: no such file" in refusal(images_in, tmp_path)


def test_empty_annotations(tmp_path):
    (tiny_imagenet(tmp_path) / "val" / "val_annotations.txt").write_text("")
    assert "val_annotations.txt: is empty" in refusal(images_in, tmp_path)


def test_the_centred_square_is_resized(tmp_path):
    paint_classes(tmp_path, 1)
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 250
    Image.fromarray(wide).save(tmp_path / "red" / "0.png")
    image = images_in(tmp_path, 5).train.images[2]
    assert (image[:, :, 1:-1] == 250).all()  # the outermost pixels take in a little of what lies beside the square
    assert (image > 200).all()


def test_other_modes_become_rgb_and_photographs_stand_upright(tmp_path):
    paint_classes(tmp_path, 1)
    paint(tmp_path / "red" / "0.png", 77, mode="L")
    paint(tmp_path / "red" / "1.png", (10, 20, 30, 0), mode="RGBA")
    palette = Image.new("P", (6, 6), 1)
    palette.putpalette([0, 0, 0, 40, 50, 60])
    palette.save(tmp_path / "red" / "2.png", transparency=bytes([255, 128]))
    lying = np.zeros((8, 8, 3), np.uint8)
    lying[:, :4] = 255
    rotated = Image.Exif()
    rotated[0x0112] = 6  # turn clockwise by 90 degrees to view
    Image.fromarray(lying).save(tmp_path / "red" / "3.png", exif=rotated)
    images = images_in(tmp_path, 8).train.images[2:]
    assert [tuple(image[:, 0, 0].tolist()) for image in images[:3]] == [(77, 77, 77), (10, 20, 30), (40, 50, 60)]
    assert (images[3][:, :4] == 255).all() and (images[3][:, 4:] == 0).all()


def test_folder_that_does_not_exist(tmp_path):
    message = refusal(images_in, tmp_path / "absent")
    assert str(tmp_path / "absent") in message and "data.image_folder.path" in message


@pytest.mark.parametrize("classes", [0, 1])
def test_too_few_classes(tmp_path, classes):
    for index in range(classes):
        paint(tmp_path / f"class{index}" / "a.png")
    assert f"{tmp_path}: holds {classes} class folder(s)" in refusal(images_in, tmp_path)


def test_class_without_images(tmp_path):
    (paint_classes(tmp_path, 1) / "yellow").mkdir()
    assert f"{tmp_path / 'yellow'}: holds no images" in refusal(images_in, tmp_path)


def test_test_set_without_images(tmp_path):
    paint_classes(tmp_path / "train", 1)
    (tmp_path / "test").mkdir()
    assert f"{tmp_path / 'test'}: holds no images" in refusal(images_in, tmp_path)


def test_test_class_that_is_not_trained(tmp_path):
    paint_classes(tmp_path / "train", 1)
    paint(tmp_path / "test" / "purple" / "0.png")
    assert str(tmp_path / "test" / "purple") in refusal(images_in, tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5])
def test_truncated_image(tmp_path, suffix, share):
    path = paint_classes(tmp_path, 2) / "green" / f"noise{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = refusal(images_in, tmp_path)
    assert message.startswith(f"{path}: cannot be read as an image")


def test_text_named_as_an_image(tmp_path):
    path = paint_classes(tmp_path, 1) / "green" / "note.png"
    path.write_text("not an image")
    assert names(path, refusal(images_in, tmp_path))


@pytest.mark.parametrize("limit", [70, 50])  # 120 pixels: above the limit PIL warns, above twice the limit it refuses
def test_image_bomb(tmp_path, monkeypatch, limit):
    paint_classes(tmp_path, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    message = refusal(images_in, tmp_path)
    assert names(tmp_path / "blue" / "0.png", message) and f"more than {limit} pixels" in message


def test_sixteen_bit_image(tmp_path):
    path = paint_classes(tmp_path, 1) / "green" / "deep.png"
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(path)
    message = refusal(images_in, tmp_path)
    assert names(path, message) and "8 bits" in message


# Published datasets: what is wrong with their files is said before they are used


@pytest.mark.parametrize("name, folder", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_damaged_idx_file(tmp_path, name, folder):
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    for file in published.IDX_MD5[folder]:
        (raw / file).write_bytes(b"\0\0\x08\x01\0\0\0\x02\x01\x02")
    message = refusal(published.read, name, tmp_path, NOWHERE, 0)
    assert names(raw / "train-images-idx3-ubyte", message) and "delete it" in message


@pytest.mark.parametrize(
    "name, file",
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("fashion_mnist", "FashionMNIST/raw/train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
    ],
)
def test_no_network(tmp_path, offline, name, file):
    message = refusal(published.read, name, tmp_path, NOWHERE, 0)
    assert names(tmp_path / file, message) and "no network" in message


def test_damaged_cifar_file(tmp_path, offline):
    path = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    path.parent.mkdir()
    path.write_bytes(b"not a pickle")
    message = refusal(published.read, "cifar10", tmp_path, NOWHERE, 0)
    assert names(path, message) and "no network" in message
    assert path.read_bytes() == b"not a pickle"


@pytest.mark.parametrize("name, package", [("digits", "sklearn.datasets"), ("mnist", "torchvision")])
def test_reader_that_is_not_installed(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = refusal(published.read, name, tmp_path, NOWHERE, 0)
    assert "cannot be imported" in message and name in message


# The stage


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Makes a project root of ``tmp_path`` and returns what runs the stage there, as from the command line."""
    script = layout.ROOT / "stages" / "prepare_data.py"
    params = yaml.safe_load((layout.ROOT / layout.PARAMS).read_text())
    params["study"] |= {"dataset": "digits", "network": "lenet5"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layout, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script)])

    def run(data: dict | None = None, **study) -> None:
        params["study"] |= study
        params["data"] |= data or {}
        (tmp_path / layout.PARAMS).write_text(yaml.safe_dump(params))
        runpy.run_path(str(script), run_name="__main__")

    return run


def test_stage_writes_dataset_and_record(project, tmp_path, capsys):
    project()
    assert capsys.readouterr().out == (
        "digits: 1293 train, 145 validation, 359 test images of 1x8x8, 10 classes, "
        "in data/prepared/dataset.safetensors\n"
    )
    assert load(tmp_path / layout.DATASET, "cpu").form == (1, 8, 10)
    assert json.loads((tmp_path / layout.record("data")).read_text())["seeds"] == {"split": 0}


def test_stage_uses_what_data_says(project, tmp_path, capsys):
    project({"classes": [7, 3], "fraction": 0.5, "imbalance": 2.0})
    dataset = load(tmp_path / layout.DATASET, "cpu", SPLITS)
    assert dataset.classes == ("7", "3")
    assert "2 classes" in capsys.readouterr().out
    # 179 sevens and 183 threes: 36 and 37 are test images; half and a quarter of the other 143 and 146 are used
    assert counts(dataset.splits["test"]) == [36, 37]
    used = torch.cat([dataset.splits[name].labels for name in ("train", "validation")])
    assert used.bincount().tolist() == [72, 37]


def test_stage_ends_in_one_line(project, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        project(dataset="image_folder")
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "prepare_data.py: data/images: no such folder; data.image_folder.path must name the folder of your images\n"
    )
    assert not (tmp_path / layout.DATASET).exists()


@pytest.fixture
def own_images(tmp_path):
    """A split in data/images with a training image in test too, two classes without test images, and no images."""
    root, rng = tmp_path / "data/images", np.random.default_rng(0)
    for name in ("test/cat/9", *(f"train/{name}/{number}" for name in ("cat", "dog", "eel") for number in range(3))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(root / name, "PNG")
    Image.open(root / "train/dog/1").save(root / "test/cat/copy.bmp")
    (root / "test/cat/notes\n.txt").write_text("no image")
    for number in range(5):
        (root / f"train/.hidden{number}").touch()
    return root


def test_stage_says_and_records_what_own_images_are_not_used_for(project, own_images, tmp_path, capsys):
    project({"image_folder": {"path": "data/images", "side": SIDE}}, dataset="image_folder")
    said = capsys.readouterr().out.splitlines()
    copied = next(line for line in said if line.startswith("in two splits"))
    assert copied.startswith("in two splits, pixel for pixel: 1 (test/cat/copy.bmp in test = train/dog/1 in ")
    assert [line for line in said if line != copied] == [
        "passed over: hidden: 5 (train/.hidden0, train/.hidden1, train/.hidden2, ...); "
        "no image: 1 (test/cat/notes\\n.txt)",
        "classes without test images: 2 (dog, eel)",
        f"image_folder: 6 train, 3 validation, 2 test images of 3x{SIDE}x{SIDE}, 3 classes, "
        "in data/prepared/dataset.safetensors",
    ]
    images = json.loads((tmp_path / layout.record("data")).read_text())["images"]
    assert images["passed_over"] == {
        "hidden": {"count": 5, "names": [f"train/.hidden{number}" for number in range(5)]},
        "no image": {"count": 1, "names": ["test/cat/notes\n.txt"]},
    }
    assert images["in_two_splits"]["count"] == 1
    assert images["classes_without_test_images"] == {"count": 2, "names": ["dog", "eel"]}


def test_stage_ends_in_a_line_where_no_image_is_left_to_test(project, own_images, tmp_path, capsys):
    with pytest.raises(SystemExit):
        project({"image_folder": {"path": "data/images", "side": SIDE}, "classes": [1, 2]}, dataset="image_folder")
    assert capsys.readouterr().err == "prepare_data.py: image_folder: has no test images of dog, eel; add some\n"
    assert not (tmp_path / layout.DATASET).exists()
