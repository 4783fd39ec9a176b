"""Damaged and hostile data: refused in one line that names the file, and nothing of it is ever executed."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import urllib.request
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from prunus.data.dataset import SPLITS, DataError, Split, load, save
from prunus.sources import image_folder, published

NOWHERE = Path("nowhere")


class Touch:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """A file that hostile content would make; the bait itself is tried first."""
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Touch(marker)))
    assert marker.exists()
    marker.unlink()
    return marker


@pytest.fixture
def serves(monkeypatch):
    """A function: every download is answered with these bytes."""

    def serve(content: bytes):
        class Answer(io.BytesIO):
            headers = {"Content-Length": str(len(content))}
            length, url = len(content), "https://localhost/"

        monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **options: Answer(content))

    return serve


def thrice(split: Split) -> dict[str, Split]:
    return {name: Split(split.images.clone(), split.labels.clone()) for name in SPLITS}


def refusal(call, *args) -> str:
    with pytest.raises(DataError) as caught:
        call(*args)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 1500
    return message


def traversing_tar(to: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in (f"../../../{to.name}", str(to), "cifar-10-batches-py/data_batch_1"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"evil"))
    return content.getvalue()


# What torchvision downloads and unpickles


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
    whole = gzip.compress(struct.pack(">IIII", 2051, 1, 28, 28) + bytes(784))
    return {
        "another": whole,
        "truncated": whole[:30],
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


# An image folder


@pytest.fixture
def images(tmp_path):
    """A folder with two classes of one image."""
    for name in ("cats", "dogs"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (6, 6), (9, 9, 9)).save(tmp_path / "images" / name / "a.png")
    return tmp_path / "images"


def images_in(folder: Path, side: int = 8):
    """The images of a folder, decoded."""
    source = published.read("image_folder", NOWHERE, folder, side)
    everything = torch.arange(len(source.train.labels))
    return replace(source, train=Split(source.train.images[everything], source.train.labels))


def png(width: int, height: int) -> bytes:
    """A PNG file that says it has so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(50))) + chunk(b"IEND", b"")
    )


def postscript(marker: Path) -> bytes:
    return f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n({marker}) (w) file closefile\nshowpage\n%%EOF\n".encode()


def image_of(kind: str, **options) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (40, 40), (1, 2, 3)).save(content, kind, **options)
    return content.getvalue()


HOSTILE_IMAGES = {
    "bomb": png(60_000, 60_000),
    "largest": png(2**31 - 1, 2**31 - 1),
    "zero size": png(0, 0),
    "no pixels": png(30, 30),
    "empty": b"",
    "text": b"these are no pixels",
    "truncated jpeg": image_of("JPEG")[:300],
    "truncated gif": image_of("GIF")[:30],
    "another format": image_of("PDF"),
    "pickle": pickle.dumps(Touch(NOWHERE)),
    "text bomb": image_of("PNG")[:33] + struct.pack(">I", 2**31 - 1) + b"zTXt" + bytes(50),
}


@pytest.mark.parametrize("kind", HOSTILE_IMAGES)
def test_what_is_no_image_of_a_bearable_size(images, kind):
    (images / "cats" / "bad.png").write_bytes(HOSTILE_IMAGES[kind])
    assert refusal(images_in, images).startswith(f"{images / 'cats' / 'bad.png'}: ")


def test_no_interpreter_is_given_what_calls_itself_an_image(images, marker, monkeypatch):
    monkeypatch.setattr(os, "system", lambda *args: pytest.fail("a program was run"))
    monkeypatch.setattr("subprocess.Popen", lambda *args, **options: pytest.fail("a program was run"))
    (images / "cats" / "bad.png").write_bytes(postscript(marker))
    assert refusal(images_in, images).startswith(f"{images / 'cats' / 'bad.png'}: cannot be read as an image")
    assert not marker.exists()


def test_of_an_animation_the_first_frame_is_taken(images):
    frames = [Image.new("L", (4, 4), value) for value in range(200)]
    frames[0].save(images / "cats" / "b.gif", save_all=True, append_images=frames[1:])
    assert images_in(images).train.images[1].max() == 0


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["b.png", "b"])
@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "dangling"])
def test_what_is_no_file_does_not_hang(images, kind, name):
    path = images / "cats" / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"device": "/dev/zero", "loop": path, "dangling": images / "nowhere"}[kind])
    assert refusal(images_in, images).startswith(f"{path}: ")


def test_folders_in_a_circle_end(images):
    (images / "cats" / "again").symlink_to(images)
    assert refusal(images_in, images).startswith(f"{images / 'cats' / 'again'}: is a link to a folder")


def test_an_image_may_be_a_link(images, tmp_path):
    Image.new("RGB", (6, 6), (200, 0, 0)).save(tmp_path / "elsewhere.png")
    (images / "cats" / "b.png").symlink_to(tmp_path / "elsewhere.png")
    assert images_in(images).train.images[1, 0].min() == 200


@pytest.mark.parametrize(
    "name", ["a\nb", "a\u202eb", "\x1b[31m", b"\xff\xfe".decode("utf-8", "surrogateescape"), "x" * 240]
)
def test_a_name_cannot_break_or_disguise_the_line(images, name):
    (images / "cats" / f"{name}.png").write_bytes(b"")
    assert "cannot be read as an image" in refusal(images_in, images)


@pytest.mark.parametrize(
    "name", ["größe", "写真 1", "a\nb", "\U0001f431", b"\xff".decode("utf-8", "surrogateescape"), "x" * 250]
)
def test_a_class_may_have_any_name_and_reaches_the_prepared_file(images, tmp_path, name):
    (images / "cats").rename(images / name)
    source = images_in(images)
    assert name in source.classes
    save(tmp_path / "prepared", "image_folder", thrice(source.train), source.classes)
    assert load(tmp_path / "prepared", "cpu").classes == source.classes


@pytest.mark.parametrize("file", ["../../../secret.png", "/etc/hostname", "a/../../../b.png", "sub/a.png"])
def test_annotations_cannot_leave_the_folder(images, tmp_path, file):
    (images / "cats").parent.rename(tmp_path / "train")
    (tmp_path / "tiny" / "val" / "images").mkdir(parents=True)
    (tmp_path / "train").rename(tmp_path / "tiny" / "train")
    table = tmp_path / "tiny" / "val" / image_folder.ANNOTATIONS
    table.write_text(f"{file}\tcats\t0\t0\t1\t1\n")
    assert refusal(images_in, tmp_path / "tiny").startswith(f"{table}, line 1: {file!r} is no name of a file")


def test_more_pixels_than_memory_holds(images):
    for name in ("cats", "dogs"):
        (images / name / "b.png").symlink_to(images / name / "a.png")
    message = refusal(images_in, images, 2**30)
    assert message.startswith(
        "data.image_folder.side: 4 images of 1073741824 x 1073741824 pixels do not fit into memory"
    )


# The prepared file


@pytest.fixture
def prepared(tmp_path):
    """The path of a good prepared file, its tensors and its metadata."""
    path = tmp_path / "dataset.safetensors"
    split = Split(torch.arange(8 * 9).reshape(8, 1, 3, 3).byte(), torch.arange(8) % 2)
    save(path, "some", thrice(split), ("a", "b"))
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


# Weights from torchvision


def test_weights_that_are_not_the_published_ones_are_never_unpickled(tmp_path, marker, monkeypatch):
    from prunus import networks

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch, "load", lambda *args, **options: pytest.fail("was unpickled"))
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    torch.save(Touch(marker), file)
    with pytest.raises(networks.NetworkError, match="resnet18-f37072fd.pth.*the file is not the published one"):
        networks.build("resnet18", 3, 32, 10, pretrained=True)
    assert not marker.exists()


def test_published_weights_are_known_by_their_hash(tmp_path):
    from prunus.networks.pretrained import is_published

    digest = hashlib.sha256(b"weights").hexdigest()
    for name, good in ((digest[:8], True), ("00000000", False)):
        (tmp_path / f"net-{name}.pth").write_bytes(b"weights")
        assert is_published(tmp_path / f"net-{name}.pth") == good
