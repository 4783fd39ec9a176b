"""A folder of one's own images: which files count, what is a class and what a split, and what is said of the rest."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunus.data.dataset import DataError
from prunus.sources import image_folder, published

SIDE = 6


def encoded(kind: str = "PNG", level: int = 90, mode: str = "L") -> bytes:
    content = io.BytesIO()
    Image.new(mode, (8, 8), level).save(content, kind)
    return content.getvalue()


def put(root: Path, *names: str, content: bytes | None = None) -> None:
    """An image under each of the names, or ``content``."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded() if content is None else content)


def read(root: Path):
    return published.read("image_folder", Path("nowhere"), root, SIDE)


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        decoded(read(root))
    message = str(caught.value)
    assert message.isprintable()
    return message


def decoded(source) -> torch.Tensor:
    return source.train.images[torch.arange(len(source.train.labels))]


def of_class(source, part: str = "train") -> dict[str, int]:
    """Images by class."""
    labels = getattr(source, part).labels.bincount(minlength=len(source.classes)).tolist()
    return dict(zip(source.classes, labels, strict=True))


# Classes or a split


@pytest.mark.parametrize("others", [["cat", "dog"], ["cat", "test"], ["test", "val"], ["Train"]])
def test_a_class_may_be_called_as_a_split_is(tmp_path, others):
    classes = ["train", *others]
    put(tmp_path, *(f"{name}/a.png" for name in classes), "train/steam/b.png")
    if len(others) == 1 or "cat" in others:
        source = read(tmp_path)
        assert of_class(source) == {name: 2 if name == "train" else 1 for name in classes}
        assert source.test is None
    else:  # train/, test/ and val/ alone are in doubt
        assert "rename the classes" in refusal(tmp_path)


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("test", ["test", "Test", "testing", "val", "valid", "Validation"])
def test_split_folders_are_known_by_their_names_in_any_case(tmp_path, train, test):
    put(tmp_path, *(f"{train}/{name}/{n}.png" for name in ("cat", "dog") for n in range(2)))
    put(tmp_path, f"{test}/cat/a.png", f"{test}/dog/a.png")
    source = read(tmp_path)
    assert (of_class(source), of_class(source, "test")) == ({"cat": 2, "dog": 2}, {"cat": 1, "dog": 1})
    assert source.passed_over == {}


def test_of_two_test_folders_one_is_used_and_the_other_named(tmp_path):
    put(tmp_path, *(f"{split}/{name}/a.png" for split in ("train", "val", "test") for name in ("cat", "dog")))
    put(tmp_path, "test/dog/b.png")
    source = read(tmp_path)
    assert of_class(source, "test") == {"cat": 1, "dog": 2}
    assert source.passed_over == {"folder beside test/": ["val"]}


@pytest.mark.parametrize(
    "folders",
    [
        ["train/cat", "train/dog", "cat", "dog"],  # a split that something was put beside, or classes
        ["train/cat", "train/dog", "test/cat", "extra"],
        ["train/cat", "train/dog", "Train/cat", "Train/dog", "test/cat"],
        ["train/cat", "train/dog", "test/cat", "TEST/cat"],
        ["test/cat", "test/dog", "val/cat", "val/dog"],  # no train/
        ["train", "test"],  # no class folders
        ["train/cat", "test/cat"],
    ],
)
def test_what_may_be_either_is_a_line_with_both_readings(tmp_path, folders):
    put(tmp_path, *(f"{folder}/a.png" for folder in folders))
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}: is a split ") and " classes (" in message
    assert "for a split leave" in message or "rename the classes" in message


@pytest.mark.parametrize("name", ["train", "pets"])
def test_one_folder_of_class_folders_is_what_the_path_should_name(tmp_path, name):
    put(tmp_path, f"{name}/cat/a.png", f"{name}/dog/a.png")
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}: holds 1 class folder(s)")
    assert message.endswith(f"is it {tmp_path / name} that data.image_folder.path should name?")


def test_no_class_folder_names_what_an_experiment_s_copy_needs(tmp_path):
    put(tmp_path, "README.md", content=b"put your images here")
    assert "dvc add" in refusal(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class_folder(tmp_path, split):
    put(tmp_path, *(f"{part}/{name}/a.png" for part in ("train", "test") for name in ("cat", "dog")))
    put(tmp_path, f"{split}/cat/a.png", content=b"")
    os.rename(tmp_path / split / "cat" / "a.png", tmp_path / split / "cat" / ".a.png")
    assert refusal(tmp_path) == f"{tmp_path / split / 'cat'}: holds no images; add some or remove the folder"


def test_a_class_in_test_alone(tmp_path):
    put(tmp_path, "train/cat/a.png", "train/dog/a.png", "test/cat/a.png", "test/eel/a.png")
    assert refusal(tmp_path).startswith(f"{tmp_path / 'test' / 'eel'}: there are no training images of this class")


# What counts


def test_an_image_is_known_by_its_content(tmp_path):
    put(tmp_path, "cat/a.png", "cat/b.PNG", "cat/c", "cat/d.dat", "cat/in/a/folder.png/e.png", "dog/a.png")
    put(tmp_path, "cat/f.jfif", content=encoded("JPEG"))
    put(tmp_path, "cat/g.anything", content=encoded("WEBP", mode="RGB"))
    for name, content in (
        ("cat/notes.txt", b"BMW and others"),
        ("cat/table", b"P2 is a name, not a picture"),
        ("dog/empty", b""),
        ("dog/drawing.svg", b"<svg/>"),
        ("dog/cut", encoded()[:20]),
        ("list.csv", b"a,b"),
    ):
        put(tmp_path, name, content=content)
    put(tmp_path, "cat/.ipynb_checkpoints/a-checkpoint.png", "dog/.DS_Store", ".thumbnails/a.png", "lost.png")
    source = read(tmp_path)
    assert source.names == [
        *(f"cat/{name}" for name in ("a.png", "b.PNG", "c", "d.dat", "f.jfif", "g.anything", "in/a/folder.png/e.png")),
        "dog/a.png",
    ]
    assert source.passed_over == {
        "hidden": [".thumbnails", "cat/.ipynb_checkpoints", "dog/.DS_Store"],
        "no image": ["cat/notes.txt", "cat/table", "dog/cut", "dog/drawing.svg", "dog/empty", "list.csv"],
        "image outside of the class folders": ["lost.png"],
    }
    assert (decoded(source) == 90).float().mean() > 0.7  # JPEG and WebP may round


def test_what_annotations_do_not_name(tmp_path):
    put(tmp_path, "train/cat/a.png", "train/dog/a.png", "val/images/a.png", "val/images/b.png", "test/images/a.png")
    put(tmp_path, "words.txt", "val/val_annotations.txt", "val/images/notes.txt", content=b"a.png\tcat\t0\t0\t1\t1\n")
    source = read(tmp_path)
    assert of_class(source, "test") == {"cat": 1, "dog": 0}
    assert source.passed_over == {
        "folder beside val/": ["test"],
        "image that val_annotations.txt does not name": ["val/images/b.png"],
        "no image": ["val/images/notes.txt", "words.txt"],
    }


def test_an_image_that_annotations_name_twice(tmp_path):
    put(tmp_path, "train/cat/a.png", "train/dog/a.png", "val/images/a.png")
    put(tmp_path, "val/val_annotations.txt", content=b"a.png\tcat\t0\t0\t1\t1\na.png\tdog\t0\t0\t1\t1\n")
    assert "line 2: 'a.png' is named twice" in refusal(tmp_path)


@pytest.mark.parametrize("link", ["dog", "cat/more", "cat/deep/down", "train/dog", "test/cat", "val/images"])
def test_a_linked_folder_is_refused(tmp_path, link):
    root = tmp_path / "images"
    put(tmp_path / "elsewhere", "a.png")
    put(root, "cat/a.png", "cow/a.png")
    if link.split("/")[0] in ("train", "test", "val"):
        root = tmp_path / "split"
        put(root, "train/cat/a.png", "train/cow/a.png", "test/cow/a.png")
        if link == "val/images":
            put(root, "val/val_annotations.txt", content=b"a.png\tcat\t0\t0\t1\t1\n")
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(tmp_path / "elsewhere")
    assert refusal(root).startswith(f"{root / link}: is a link to a folder, which DVC would not watch")


@pytest.mark.parametrize("folder", [".", "cat", "cat/more"])
def test_what_tells_dvc_not_to_watch_is_refused(tmp_path, folder):
    put(tmp_path, "cat/a.png", "dog/a.png", "cat/more/a.png")
    (tmp_path / folder / ".dvcignore").write_text("a.png\n")
    assert ".dvcignore: tells DVC not to watch some of the images" in refusal(tmp_path)


def test_the_folder_itself_and_images_may_be_links(tmp_path):
    put(tmp_path / "real", "cat/a.png", "dog/a.png")
    put(tmp_path, "elsewhere.png", content=encoded(level=200))
    (tmp_path / "real/dog/b").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "real/dog/.hidden").symlink_to(tmp_path)
    (tmp_path / "images").symlink_to("real")
    source = read(tmp_path / "images")
    assert decoded(source)[:, 0, 0, 0].tolist() == [90, 90, 200]


def test_a_dvc_project_of_its_own_is_refused(tmp_path):
    put(tmp_path, "cat/a.png", "dog/a.png", "dog/.dvc/config")
    assert refusal(tmp_path).startswith(f"{tmp_path / 'dog'}: is a DVC project of its own")


@pytest.mark.parametrize("closed", ["dog", "cat/deep", "dog/a", "dog/a.png"])
def test_what_may_not_be_read_does_not_vanish(tmp_path, closed, monkeypatch):
    put(tmp_path, "cat/a.png", "cat/deep/a.png", "dog/a", "dog/a.png", "dog/b.png")
    scandir, opened = os.scandir, io.open

    def refuse(call, path, *options, **named):
        if str(path) == str(tmp_path / closed):
            raise PermissionError(13, "Permission denied", str(path))
        return call(path, *options, **named)

    monkeypatch.setattr(os, "scandir", lambda *given: refuse(scandir, *given))
    monkeypatch.setattr(io, "open", lambda *given, **named: refuse(opened, *given, **named))
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / closed}: cannot be read") and "Permission denied" in message


# Eight bits


def png(depth: int, colour_type: int, channels: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\0" + b"\x55" * (depth * channels)) * 8  # eight pixels of `depth` bits are `depth` bytes
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, colour_type, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(bits: int) -> bytes:
    """RGB of 8x8 pixels, not compressed."""
    pixels = b"\x55" * (8 * 8 * 3 * bits // 8)
    tags = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 14), (277, 3, 1, 3), (278, 3, 1, 8), (279, 4, 1, len(pixels))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<I", 14 + len(pixels)) + struct.pack("<3H", *[bits] * 3)
    return head + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def ppm(kind: str, largest: int) -> bytes:
    samples = 64 * (3 if kind in ("P3", "P6") else 1)
    sample = b"5 " if kind in ("P2", "P3") else b"\x05" * (2 if largest > 255 else 1)
    return f"{kind}\n8 8\n{largest}\n".encode() + sample * samples


DEEP = {
    "grey.png": png(16, 0, 1),
    "rgb.png": png(16, 2, 3),
    "grey-alpha.png": png(16, 4, 2),
    "rgba.png": png(16, 6, 4),
    "rgb.tif": tiff(16),
    "rgb.ppm": ppm("P6", 65535),
    "odd.ppm": ppm("P6", 1000),
    "plain.ppm": ppm("P3", 1000),
    "grey.pgm": ppm("P5", 65535),
    "plain.pgm": ppm("P2", 300),
}
SHALLOW = {
    "1.png": png(1, 0, 1),
    "4.png": png(4, 0, 1),
    "8.png": png(8, 2, 3),
    "rgba.png": png(8, 6, 4),
    "rgb.tif": tiff(8),
    "rgb.ppm": ppm("P6", 255),
    "odd.ppm": ppm("P6", 100),
    "plain.ppm": ppm("P3", 255),
    "grey.pgm": ppm("P5", 100),
    "rgb.bmp": encoded("BMP", mode="RGB"),
    "two colours.bmp": encoded("BMP", mode="1", level=1),
    "rgb.jpg": encoded("JPEG", mode="RGB"),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_eight_bits_per_channel(tmp_path, name):
    put(tmp_path, "cat/a.png", "dog/a.png")
    put(tmp_path, f"dog/{name}", content=DEEP[name])
    with Image.open(tmp_path / "dog" / name) as image:
        image.load()  # PIL has no complaint
    said = f"{tmp_path / 'dog' / name}: has more than 8 bits per channel; convert it to 8 bits"
    assert refusal(tmp_path) == said


def test_at_most_eight_bits_per_channel(tmp_path):
    put(tmp_path, "cat/a.png")
    for name, content in SHALLOW.items():
        put(tmp_path, f"dog/{name}", content=content)
    assert len(decoded(read(tmp_path))) == 1 + len(SHALLOW)


# Decoding


@pytest.fixture
def noise(tmp_path):
    """150 images of many sizes and kinds."""
    rng = np.random.default_rng(0)
    for n in range(150):
        pixels = rng.integers(0, 256, (*rng.integers(5, 40, 2), 3), np.uint8)
        (tmp_path / "ab"[n % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "ab"[n % 2] / f"{n:03}.{('png', 'jpg', 'webp', 'gif')[n % 4]}")
    return tmp_path


def test_many_cores_decode_what_one_does(noise, monkeypatch):
    images = []
    for cores in (1, 2, 16):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        images.append(decoded(read(noise)))
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2])
    one_by_one = [image_folder._decoded(noise / name, SIDE) for name in read(noise).names]
    assert np.array_equal(np.stack(one_by_one), images[0].numpy())


def test_the_first_damaged_image_is_named_whoever_finds_one_first(noise, monkeypatch):
    names = read(noise).names
    for name in (names[140], names[40], names[100]):
        (noise / name).write_bytes(b"damaged")
    for cores in (1, 16):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert refusal(noise).startswith(f"{noise / names[40]}: ")


def test_images_are_read_by_number_and_in_any_order(noise):
    source = read(noise)
    chosen = torch.tensor([120, 3, 77])
    assert torch.equal(source.train.images[chosen], decoded(source)[chosen])
