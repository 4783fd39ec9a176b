"""Single images of a folder: which are read, the pixels they become, and how one is refused."""

import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hostile import Touch, refusal
from image_files import NOWHERE, SIDE, decoded, encoded, images_in, names, paint, paint_classes, put, read, refused
from prunus.data.dataset import DataError, load, save
from prunus.sources import image_folder
from small_data import in_every_split


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


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5])
def test_truncated_image(tmp_path, suffix, share):
    path = paint_classes(tmp_path, 2) / "green" / f"noise{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = refused(tmp_path)
    assert message.startswith(f"{path}: cannot be read as an image")


def test_text_named_as_an_image(tmp_path):
    path = paint_classes(tmp_path, 1) / "green" / "note.png"
    path.write_text("not an image")
    assert names(path, refused(tmp_path))


@pytest.mark.parametrize("limit", [70, 50])  # 120 pixels: above the limit PIL warns, above twice the limit it refuses
def test_image_bomb(tmp_path, monkeypatch, limit):
    paint_classes(tmp_path, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    message = refused(tmp_path)
    assert names(tmp_path / "blue" / "0.png", message) and f"more than {limit} pixels" in message


def test_sixteen_bit_image(tmp_path):
    path = paint_classes(tmp_path, 1) / "green" / "deep.png"
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(path)
    message = refused(tmp_path)
    assert names(path, message) and "8 bits" in message


# Hostile images


@pytest.fixture
def images(tmp_path):
    """A folder with two classes of one image."""
    for name in ("cats", "dogs"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (6, 6), (9, 9, 9)).save(tmp_path / "images" / name / "a.png")
    return tmp_path / "images"


def png_file(width: int, height: int, depth: int, colour_type: int, pixels: bytes) -> bytes:
    """A PNG file that says it has so many pixels of ``depth`` bits per channel, and holds ``pixels``."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def png_claiming(width: int, height: int) -> bytes:
    """A PNG file that says it has so many pixels, and holds next to none."""
    return png_file(width, height, 8, 2, bytes(50))


def postscript(marker: Path) -> bytes:
    return f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n({marker}) (w) file closefile\nshowpage\n%%EOF\n".encode()


def image_of(kind: str, **options) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (40, 40), (1, 2, 3)).save(content, kind, **options)
    return content.getvalue()


HOSTILE_IMAGES = {
    "bomb": png_claiming(60_000, 60_000),
    "largest": png_claiming(2**31 - 1, 2**31 - 1),
    "zero size": png_claiming(0, 0),
    "no pixels": png_claiming(30, 30),
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
    assert refused(images).startswith(f"{images / 'cats' / 'bad.png'}: ")


def test_no_interpreter_is_given_what_calls_itself_an_image(images, marker, monkeypatch):
    monkeypatch.setattr(os, "system", lambda *args: pytest.fail("a program was run"))
    monkeypatch.setattr("subprocess.Popen", lambda *args, **options: pytest.fail("a program was run"))
    (images / "cats" / "bad.png").write_bytes(postscript(marker))
    assert refused(images).startswith(f"{images / 'cats' / 'bad.png'}: cannot be read as an image")
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
    assert refused(images).startswith(f"{path}: ")


def test_folders_in_a_circle_end(images):
    (images / "cats" / "again").symlink_to(images)
    assert refused(images).startswith(f"{images / 'cats' / 'again'}: is a link to a folder")


def test_an_image_may_be_a_link(images, tmp_path):
    Image.new("RGB", (6, 6), (200, 0, 0)).save(tmp_path / "elsewhere.png")
    (images / "cats" / "b.png").symlink_to(tmp_path / "elsewhere.png")
    assert images_in(images).train.images[1, 0].min() == 200


@pytest.mark.parametrize(
    "name", ["a\nb", "a\u202eb", "\x1b[31m", b"\xff\xfe".decode("utf-8", "surrogateescape"), "x" * 240]
)
def test_a_name_cannot_break_or_disguise_the_line(images, name):
    (images / "cats" / f"{name}.png").write_bytes(b"")
    assert "cannot be read as an image" in refused(images)


@pytest.mark.parametrize(
    "name", ["größe", "写真 1", "a\nb", "\U0001f431", b"\xff".decode("utf-8", "surrogateescape"), "x" * 250]
)
def test_a_class_may_have_any_name_and_reaches_the_prepared_file(images, tmp_path, name):
    (images / "cats").rename(images / name)
    source = images_in(images)
    assert name in source.classes
    save(tmp_path / "prepared", "image_folder", in_every_split(source.train), source.classes)
    assert load(tmp_path / "prepared", "cpu").classes == source.classes


@pytest.mark.parametrize("file", ["../../../secret.png", "/etc/hostname", "a/../../../b.png", "sub/a.png"])
def test_annotations_cannot_leave_the_folder(images, tmp_path, file):
    (images / "cats").parent.rename(tmp_path / "train")
    (tmp_path / "tiny" / "val" / "images").mkdir(parents=True)
    (tmp_path / "train").rename(tmp_path / "tiny" / "train")
    table = tmp_path / "tiny" / "val" / image_folder.ANNOTATIONS
    table.write_text(f"{file}\tcats\t0\t0\t1\t1\n")
    assert refused(tmp_path / "tiny").startswith(f"{table}, line 1: {file!r} is not a file name in ")


def test_more_pixels_than_memory_holds(images):
    for name in ("cats", "dogs"):
        (images / name / "b.png").symlink_to(images / name / "a.png")
    message = refusal(images_in, images, 2**30, error=DataError)
    assert message.startswith(
        "data.image_folder.side: 4 images of 1073741824 x 1073741824 pixels do not fit into memory"
    )


# Bits per channel


def png(depth: int, colour_type: int, channels: int) -> bytes:
    """A PNG file of 8x8 pixels."""
    rows = (b"\0" + b"\x55" * (depth * channels)) * 8  # eight pixels of `depth` bits are `depth` bytes
    return png_file(8, 8, depth, colour_type, rows)


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
    message = f"{tmp_path / 'dog' / name}: has more than 8 bits per channel; convert it to 8 bits"
    assert refused(tmp_path) == message


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
        assert refused(noise).startswith(f"{noise / names[40]}: ")


def test_images_are_read_by_number_and_in_any_order(noise):
    source = read(noise)
    chosen = torch.tensor([120, 3, 77])
    assert torch.equal(source.train.images[chosen], decoded(source)[chosen])
