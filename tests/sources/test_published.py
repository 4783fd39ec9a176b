"""Published datasets: a fault in their files is one line, and nothing in them is executed."""

import gzip
import io
import pickle
import struct
import sys
import tarfile
import urllib.request
import zipfile
from functools import partial
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

import hostile
from hostile import Touch
from image_files import NOWHERE, names
from prunus.data.dataset import DataError
from prunus.sources import published

refusal = partial(hostile.refusal, error=DataError)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


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


@pytest.fixture
def serves(monkeypatch):
    """A function: every download is answered with these bytes."""

    def serve(content: bytes):
        class Answer(io.BytesIO):
            headers = {"Content-Length": str(len(content))}
            length, url = len(content), "https://localhost/"

        monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **options: Answer(content))

    return serve


def traversing_tar(to: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in (f"../../../{to.name}", str(to), "cifar-10-batches-py/data_batch_1"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"evil"))
    return content.getvalue()


# What torchvision downloads and unpickles: refused unless it is the published file


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_a_pickle_that_is_not_the_published_one_is_never_loaded(tmp_path, marker, serves, name, folder):
    serves(b"")
    (tmp_path / folder).mkdir()
    from torchvision import datasets as theirs

    dataset = getattr(theirs, published.TORCHVISION_NAMES[name])
    for file, _ in [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], "")]:
        (tmp_path / folder / file).write_bytes(pickle.dumps(Touch(marker)))
    message = refusal(published.read, name, tmp_path, NOWHERE, 0)
    assert message.startswith(str(tmp_path / folder)) and "is missing or damaged" in message
    assert not marker.exists()


@pytest.mark.parametrize("where", ["downloaded", "found"])
def test_a_tampered_archive_is_refused_before_it_is_unpacked(tmp_path, serves, where, monkeypatch):
    escaped, raw = tmp_path / "escaped", tmp_path / "a" / "b" / "raw"
    archive = traversing_tar(escaped)
    serves(archive)
    raw.mkdir(parents=True)
    if where == "found":
        (raw / "cifar-10-python.tar.gz").write_bytes(archive)
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda *args, **options: pytest.fail("was unpacked"))
    message = refusal(published.read, "cifar10", raw, NOWHERE, 0)
    assert message.startswith(str(raw / "cifar-10-batches-py")) and "could not be downloaded" in message
    assert not escaped.exists() and not (raw / "cifar-10-batches-py").exists()


def archives() -> dict[str, bytes]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../train-images-idx3-ubyte", b"x" * 1000)
    valid = gzip.compress(struct.pack(">IIII", 2051, 1, 28, 28) + bytes(784))
    return {
        "another": valid,
        "truncated": valid[:30],
        "zip": packed.getvalue(),
        "empty": b"",
        "bomb": gzip.compress(bytes(10**7)),
    }


@pytest.mark.parametrize("kind", archives())
def test_a_download_that_is_not_the_published_one(tmp_path, serves, kind):
    serves(archives()[kind])
    message = refusal(published.read, "mnist", tmp_path, NOWHERE, 0)
    assert "train-images-idx3-ubyte: is missing or damaged and could not be downloaded" in message
    assert not list(tmp_path.rglob("*ubyte"))


def test_what_an_old_torchvision_left_is_not_read(tmp_path, marker, serves):
    serves(b"")
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir(parents=True)
    for file in ("training.pt", "test.pt"):
        torch.save(Touch(marker), processed / file)
    assert "could not be downloaded" in refusal(published.read, "mnist", tmp_path, NOWHERE, 0)
    assert not marker.exists()


@pytest.mark.parametrize(
    "claim", [(2051, 2**31 - 1, 2**31 - 1, 28), (2051, 1, 1, 1), (0x0801, 5, 5, 5), (2**32 - 1,) * 4]
)
def test_an_idx_file_that_claims_anything_else_than_was_published(tmp_path, claim):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for file in published.IDX_MD5["MNIST"]:
        (folder / file).write_bytes(struct.pack(">IIII", *claim) + bytes(100))
    message = refusal(published.read, "mnist", tmp_path, NOWHERE, 0)
    assert message.startswith(f"{folder / 'train-images-idx3-ubyte'}: is not the published file")
