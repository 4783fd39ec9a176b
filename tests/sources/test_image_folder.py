"""A folder of own images: which files are used, which folders are classes or splits, and the report on the rest."""

import io
import os
from pathlib import Path

import numpy as np
import pytest

from image_files import COLOURS, SIDE, decoded, encoded, images_in, paint, paint_classes, put, read, refused
from prunus.data.dataset import Split
from small_data import counts


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
        assert "rename the classes" in refused(tmp_path)


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
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}: is either a split ") and " classes (" in message
    assert "for a split keep" in message or "rename the classes" in message


@pytest.mark.parametrize("name", ["train", "pets"])
def test_one_folder_of_class_folders_is_what_the_path_should_name(tmp_path, name):
    put(tmp_path, f"{name}/cat/a.png", f"{name}/dog/a.png")
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}: holds 1 class folder(s)")
    assert message.endswith(f"should data.image_folder.path name {tmp_path / name}?")


def test_no_class_folder_names_what_an_experiment_s_copy_needs(tmp_path):
    put(tmp_path, "README.md", content=b"put your images here")
    assert "dvc add" in refused(tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class_folder(tmp_path, split):
    put(tmp_path, *(f"{part}/{name}/a.png" for part in ("train", "test") for name in ("cat", "dog")))
    put(tmp_path, f"{split}/cat/a.png", content=b"")
    os.rename(tmp_path / split / "cat" / "a.png", tmp_path / split / "cat" / ".a.png")
    assert refused(tmp_path) == f"{tmp_path / split / 'cat'}: holds no images; add some or remove the folder"


def test_a_class_in_test_alone(tmp_path):
    put(tmp_path, "train/cat/a.png", "train/dog/a.png", "test/cat/a.png", "test/eel/a.png")
    assert refused(tmp_path).startswith(f"{tmp_path / 'test' / 'eel'}: this class has no training images")


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
    assert "line 2: 'a.png' is named twice" in refused(tmp_path)


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
    assert refused(root).startswith(f"{root / link}: is a link to a folder, which DVC would not watch")


@pytest.mark.parametrize("folder", [".", "cat", "cat/more"])
def test_what_tells_dvc_not_to_watch_is_refused(tmp_path, folder):
    put(tmp_path, "cat/a.png", "dog/a.png", "cat/more/a.png")
    (tmp_path / folder / ".dvcignore").write_text("a.png\n")
    assert ".dvcignore: tells DVC not to watch some of the images" in refused(tmp_path)


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
    assert refused(tmp_path).startswith(f"{tmp_path / 'dog'}: is a separate DVC project")


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
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path / closed}: cannot be read") and "Permission denied" in message


# Where classes and test images are found


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
    message = refused(tmp_path)
    assert f"{table}, line 4" in message and "'purple'" in message


def test_annotated_image_that_is_missing(tmp_path):
    gone = tiny_imagenet(tmp_path) / "val" / "images" / "val_red.JPEG"
    gone.unlink()
    assert f"{gone}: no such file" in refused(tmp_path)


def test_empty_annotations(tmp_path):
    (tiny_imagenet(tmp_path) / "val" / "val_annotations.txt").write_text("")
    assert "val_annotations.txt: is empty" in refused(tmp_path)


def test_folder_that_does_not_exist(tmp_path):
    message = refused(tmp_path / "absent")
    assert str(tmp_path / "absent") in message and "data.image_folder.path" in message


@pytest.mark.parametrize("classes", [0, 1])
def test_too_few_classes(tmp_path, classes):
    for index in range(classes):
        paint(tmp_path / f"class{index}" / "a.png")
    assert f"{tmp_path}: holds {classes} class folder(s)" in refused(tmp_path)


def test_class_without_images(tmp_path):
    (paint_classes(tmp_path, 1) / "yellow").mkdir()
    assert f"{tmp_path / 'yellow'}: holds no images" in refused(tmp_path)


def test_test_set_without_images(tmp_path):
    paint_classes(tmp_path / "train", 1)
    (tmp_path / "test").mkdir()
    assert f"{tmp_path / 'test'}: holds no images" in refused(tmp_path)


def test_test_class_that_is_not_trained(tmp_path):
    paint_classes(tmp_path / "train", 1)
    paint(tmp_path / "test" / "purple" / "0.png")
    assert str(tmp_path / "test" / "purple") in refused(tmp_path)
