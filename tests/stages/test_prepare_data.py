"""The stage that prepares the dataset: what it prints, writes and records."""

import json
import runpy
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from image_files import SIDE
from prunus.data.dataset import SPLITS, load
from prunus.study import layout
from small_data import counts

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
    lines = capsys.readouterr().out.splitlines()
    copied = next(line for line in lines if line.startswith("in two splits"))
    assert copied.startswith("in two splits, pixel for pixel: 1 (test/cat/copy.bmp in test = train/dog/1 in ")
    assert [line for line in lines if line != copied] == [
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
