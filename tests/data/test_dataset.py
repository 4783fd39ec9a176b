"""The prepared dataset: the content of its file, samples and parts of it, and one line for a file that is invalid."""

import json
import os
import pickle
import struct
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import hostile
from hostile import Touch
from image_files import NOWHERE
from prunus.data import dataset as dataset_module
from prunus.data.dataset import SPLITS, DataError, Split, load, mean_and_std, save
from small_data import counts, in_every_split, prepared_file

refusal = partial(hostile.refusal, error=DataError)


def test_digits_from_reader_to_device(digits, tmp_path):
    path = tmp_path / "prepared" / "dataset.safetensors"
    prepared_file(digits, path)
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
    prepared_file(digits, tmp_path / "file")
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


def test_prepared_file_says_what_it_holds(digits, tmp_path):
    prepared_file(digits, tmp_path / "file")
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert set(file.keys()) == {
            "mean",
            "std",
            *(f"{split}_{part}" for split in SPLITS for part in ("images", "labels")),
        }
        assert json.loads(file.metadata()["prunus"]) == {"dataset": "some", "classes": list("0123456789")}


def test_only_the_named_splits_are_read(digits, tmp_path):
    prepared_file(digits, tmp_path / "file")
    assert list(load(tmp_path / "file", "cpu").splits) == ["train", "validation"]
    assert list(load(tmp_path / "file", "cpu", splits=("test",)).splits) == ["test"]


def test_sample_draws_different_images_by_seed(digits, tmp_path):
    prepared_file(digits, tmp_path / "file")
    dataset = load(tmp_path / "file", "cpu")
    first, again, other = (dataset.sample("train", 100, seed) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    everything = dataset.sample("train", 10**6, 3)
    assert torch.equal(
        everything.images.flatten(1).unique(dim=0), dataset.splits["train"].images.flatten(1).unique(dim=0)
    )


def test_a_part_of_a_split_is_class_by_class_within_a_larger_part_and_in_order(digits, tmp_path):
    prepared_file(digits, tmp_path / "a")
    dataset = load(tmp_path / "a", "cpu", splits=("train", "test"))

    def pixels(data):
        return [image.numpy().tobytes() for image in data.splits["test"].images]

    tenth, half, other = dataset.part("test", 0.1, 1), dataset.part("test", 0.5, 1), dataset.part("test", 0.1, 2)
    for part, fraction in ((tenth, 0.1), (half, 0.5)):
        sizes = [int(fraction * size + 0.5) for size in counts(dataset.splits["test"])]
        assert counts(part.splits["test"]) == sizes and part.splits["train"] is dataset.splits["train"]
        remaining = iter(pixels(dataset))
        assert all(image in remaining for image in pixels(part))  # in order
    assert set(pixels(tenth)) < set(pixels(half)) and pixels(tenth) != pixels(other)
    assert counts(dataset.part("test", 0.001, 1).splits["test"]) == [1] * 10
    assert pixels(dataset.part("test", 1.0, 1)) == pixels(dataset)


def test_missing_prepared_file(tmp_path):
    message = refusal(load, tmp_path / "file", "cpu")
    assert str(tmp_path / "file") in message and "python stages/prepare_data.py" in message


@pytest.mark.parametrize("keep", [0, 4, 2000, -1])
def test_damaged_prepared_file(digits, tmp_path, keep):
    path = tmp_path / "file"
    path.write_bytes(prepared_file(digits, path)[:keep])
    message = refusal(load, path, "cpu")
    assert str(path) in message and "python stages/prepare_data.py" in message


def test_file_of_another_make(tmp_path):
    from safetensors.torch import save_file

    save_file({"mean": torch.zeros(1)}, tmp_path / "file")
    assert "is damaged" in refusal(load, tmp_path / "file", "cpu")


def test_a_failed_write_leaves_the_old_file(digits, tmp_path, monkeypatch):
    before = prepared_file(digits, tmp_path / "file")

    def fail(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(dataset_module, "save_file", fail)
    assert "no space left" in refusal(prepared_file, digits, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == before
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def prepared(tmp_path):
    """The path of a good prepared file, its tensors and its metadata."""
    path = tmp_path / "dataset.safetensors"
    split = Split(torch.arange(8 * 9).reshape(8, 1, 3, 3).byte(), torch.arange(8) % 2)
    save(path, "some", in_every_split(split), ("a", "b"))
    with safe_open(path, framework="pt") as file:
        return path, {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


LABELS = torch.arange(8) % 2
WRONG_TENSORS = {
    "images of floats": {"train_images": torch.zeros(8, 1, 3, 3)},
    "images without a channel": {"train_images": torch.zeros(8, 3, 3, dtype=torch.uint8)},
    "more channels than means": {"train_images": torch.zeros(8, 3, 3, 3, dtype=torch.uint8)},
    "no images": {"train_images": torch.zeros(0, 1, 3, 3, dtype=torch.uint8), "train_labels": LABELS[:0]},
    "splits of two sizes": {"validation_images": torch.zeros(8, 1, 4, 4, dtype=torch.uint8)},
    "too few labels": {"train_labels": LABELS[:7]},
    "a label out of range": {"train_labels": LABELS + 1},
    "a negative label": {"validation_labels": LABELS - 1},
    "labels of another type": {"train_labels": LABELS.to(torch.int32)},
    "a deviation of 0": {"std": torch.zeros(1)},
    "a mean that is no number": {"mean": torch.tensor([float("nan")])},
    "a mean of another type": {"mean": torch.zeros(1, dtype=torch.float64)},
}


def check_prepared(path):
    message = refusal(load, path, "cpu")
    assert message.startswith(f"{path}: is damaged (")
    assert message.endswith("; `python stages/prepare_data.py` makes it again")


@pytest.mark.parametrize("what", WRONG_TENSORS)
def test_tensors_that_the_stage_never_writes(prepared, what):
    path, tensors, metadata = prepared
    save_file(tensors | WRONG_TENSORS[what], path, metadata)
    check_prepared(path)


@pytest.mark.parametrize("missing", ["train_images", "validation_labels", "mean", "std"])
def test_a_tensor_is_missing(prepared, missing):
    path, tensors, metadata = prepared
    save_file({name: tensor for name, tensor in tensors.items() if name != missing}, path, metadata)
    check_prepared(path)


@pytest.mark.parametrize(
    "about", ["", "{", "[]", '{"classes": "ab"}', '{"classes": []}', '{"classes": [1, 2]}', "[" * 10**5]
)
def test_metadata_that_the_stage_never_writes(prepared, about):
    path, tensors, _ = prepared
    save_file(tensors, path, {"prunus": about})
    check_prepared(path)


def headers() -> dict[str, bytes]:
    entry = b'{"mean":{"dtype":"F32","shape":[%d],"data_offsets":[0,%d]}}'
    return {
        "length beyond the file": struct.pack("<Q", 2**63) + b"{}",
        "length of a gigabyte": struct.pack("<Q", 10**9) + b"{}",
        "length of 99 megabytes": struct.pack("<Q", 99 * 10**6) + b"{}",
        "shape beyond the data": struct.pack("<Q", len(entry % (2**40, 2**42))) + entry % (2**40, 2**42),
        "no JSON": struct.pack("<Q", 8) + b"\xff" * 8,
        "brackets": struct.pack("<Q", 10**5) + b"[" * 10**5,
        "pickle": pickle.dumps(Touch(NOWHERE)),
        "nothing": b"",
    }


@pytest.mark.parametrize("what", headers())
def test_a_header_that_lies(tmp_path, what):
    (tmp_path / "file").write_bytes(headers()[what])
    check_prepared(tmp_path / "file")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file(prepared, share):
    path = prepared[0]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    check_prepared(path)
