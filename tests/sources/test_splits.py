"""Splits: cut class by class, by seed, from the classes and the share of images in params.yaml."""

from functools import partial

import pytest
import torch

import hostile
from prunus.data.dataset import SPLITS, DataError, Split, save
from prunus.run.seeds import derive_seed
from prunus.sources.splits import Source, _cut, cut, of_classes, shared, with_test
from small_data import counts, prepared_file

refusal = partial(hostile.refusal, error=DataError)


def test_splits_share_the_images_out_class_by_class(digits):
    splits = cut(digits, 0.2, 0.1, 0)
    totals = counts(digits.train)
    for before, test in zip(totals, counts(splits["test"]), strict=True):
        assert abs(test - 0.2 * before) <= 0.5
    for before, test, validation in zip(totals, counts(splits["test"]), counts(splits["validation"]), strict=True):
        assert abs(validation - 0.1 * (before - test)) <= 0.5
    numbered = Source(Split(torch.arange(len(digits.train.labels)), digits.train.labels), None, digits.classes)
    parts = [split.images for split in cut(numbered, 0.2, 0.1, 0).values()]
    assert torch.equal(torch.cat(parts).sort().values, numbered.train.images)


def test_a_test_set_of_its_own_is_left_alone(digits):
    source = Source(digits.train, digits.train[torch.arange(7)], digits.classes)
    splits = cut(source, 0.9, 0.1, 0)
    assert torch.equal(splits["test"].images, digits.train.images[:7])
    assert sum(len(splits[name].labels) for name in ("train", "validation")) == 1797


def test_bytes_depend_on_the_content_and_the_split_seed_only(digits, tmp_path):
    first = prepared_file(digits, tmp_path / "a", seed=1)
    assert all(prepared_file(digits, tmp_path / "b", seed=1) == first for _ in range(5))
    assert prepared_file(digits, tmp_path / "b", seed=2) != first


def cut_in_two_steps(source, path):
    """The prepared file as without the choices of classes, fraction and imbalance."""
    rest, test = _cut(source.train, 0.2, 2, source.classes, derive_seed(0, "test"))
    train, validation = _cut(rest, 0.1, 1, source.classes, derive_seed(0, "validation"))
    save(path, "some", {"train": train, "validation": validation, "test": test}, source.classes)
    return path.read_bytes()


def test_everything_is_the_file_without_the_choices(digits, tmp_path):
    everything = of_classes(digits, "all")
    assert prepared_file(everything, tmp_path / "all") == cut_in_two_steps(digits, tmp_path / "plain")
    assert prepared_file(of_classes(digits, list(range(10))), tmp_path / "listed") == prepared_file(
        digits, tmp_path / "all"
    )


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
        test = cut(of_classes(source, classes), 0.2, 0.1, 0)["test"]
        assert torch.equal(test.images[test.labels == classes.index(9)], source.test.images[source.test.labels == 9])


def test_a_class_that_does_not_exist():
    message = refusal(of_classes, numbered([0, 1, 2]), [0, 3])
    assert message == "classes: 3 is not a class of the dataset; allowed: 0 to 2"


def images_of(splits: dict[str, Split], *names: str) -> set[int]:
    return {number for name in names for number in splits[name].images.flatten().tolist()}


@pytest.mark.parametrize("own_test", [True, False])
def test_a_fraction_of_the_training_images_of_every_class(own_test):
    source = numbered([0] * 100 + [1] * 60 + [2] * 40, [0, 1, 2] * 5 if own_test else None)
    full, half, tenth = (cut(source, 0.5, 0.1, 0, fraction) for fraction in (1.0, 0.5, 0.1))
    of_training = 1 if own_test else 0.5
    for splits, fraction in ((half, 0.5), (tenth, 0.1)):
        assert torch.equal(splits["test"].images, full["test"].images)
        used = torch.cat([splits[name].labels for name in ("train", "validation")])
        assert used.bincount().tolist() == [round(fraction * of_training * n) for n in (100, 60, 40)]
    everything = [images_of(splits, "train", "validation") for splits in (tenth, half, full)]
    assert everything[0] < everything[1] < everything[2]
    assert images_of(cut(source, 0.5, 0.1, 1, 0.1), "train", "validation") != everything[0]


def test_the_long_tail_is_exponential():
    source = numbered([0, 1, 2] * 1000, [0, 1, 2])
    splits = cut(source, 0.5, 0.1, 0, 0.8, 16.0)
    used = torch.cat([splits[name].labels for name in ("train", "validation")])
    assert used.bincount().tolist() == [800, 200, 50]
    assert counts(splits["validation"]) == [80, 20, 5]
    assert counts(splits["test"]) == [1, 1, 1]


@pytest.mark.parametrize(("fraction", "imbalance"), [(0.1, 1.0), (1.0, 10.0)])
def test_a_share_that_leaves_a_class_too_small(fraction, imbalance):
    source = numbered([0] * 50 + [1] * 10, [0, 1])
    message = refusal(cut, source, 0.1, 0.1, 0, fraction, imbalance)
    assert message.startswith("class 'b': has 1 image(s) to cut the splits from and needs 2, one in each split;")
    assert "fraction, imbalance" in message


@pytest.mark.parametrize("own_test", [True, False])
def test_numbers_are_cut_as_the_images_are(own_test):
    source = numbered([0] * 100 + [1] * 60, [0, 1, 1] if own_test else None)
    how = (0.5, 0.1, 0, 0.5, 2.0)
    images, numbers = cut(source, *how), cut(source.numbered(), *how)
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
    message = refusal(cut, source, 0.1, 0.1, 0)
    assert message.startswith(f"class 'dog': has {dogs} image(s)") and f"needs {needed}" in message


@pytest.mark.parametrize("fraction, test", [(0.99, [1, 7]), (0.01, [1, 1])])
def test_three_images_of_a_class_are_enough(fraction, test):
    splits = cut(Source(blank(3, 9), None, ("cat", "dog")), fraction, 0.01, 0)
    assert counts(splits["test"]) == test
    assert counts(splits["validation"]) == [1, 1]
    assert min(counts(splits["train"])) == 1
