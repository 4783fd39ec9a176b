"""Own images in a project: what the stage reads is what DVC and Snakemake watch, and experiments find the images."""

import hashlib
import json
import pickle
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo
from PIL import Image

from project import make_project, stages_run

PREPARED = "data/prepared/dataset.safetensors"


def paint(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG")


def paint_classes(root: Path, first: int = 0) -> Path:
    for number in range(8):
        paint(root / ("cat", "dog")[number % 2] / f"{number}.png", first + number)
    return root


@pytest.fixture
def project(tmp_path):
    """A project that nothing has run in, with eight images in data/images/pets."""
    project = make_project(
        tmp_path / "project",
        study__dataset="image_folder",
        data__image_folder={"path": "data/images/pets", "side": 8},
    )
    paint_classes(project.root / "data/images/pets")
    return project


# The files that are opened for every kind of dataset, by an audit hook in a process that runs the stage's script with
# small files and their MD5s in the place of the published ones. (The code that it runs is the graph's test's.)
OPENED = """
import json, os, runpy, sys
from pathlib import Path
import yaml
sys.path.insert(0, "stages")
from torchvision import datasets as of_torchvision
from prunus.sources import published

given = json.loads(Path("given.json").read_text())
for name, table in given["idx"].items():
    published.IDX_MD5[name] = table
for name, lists in given["cifar"].items():
    dataset = getattr(of_torchvision, name)
    dataset.train_list, dataset.test_list = lists["train_list"], lists["test_list"]
    dataset.meta = dataset.meta | lists["meta"]

opened = []
def note(event, args):
    if event == "open" and isinstance(args[0], str) and not (isinstance(args[1], str) and set(args[1]) & set("wxa")):
        opened.append(os.path.abspath(args[0]))
sys.addaudithook(note)
sys.argv = ["stages/prepare_data.py"]
params, found = yaml.safe_load(Path("params.yaml").read_text()), {}
for kind, (dataset, folder) in given["kinds"].items():
    params["study"]["dataset"], params["data"]["image_folder"]["path"] = dataset, folder
    Path("params.yaml").write_text(yaml.safe_dump(params))
    opened.clear()
    runpy.run_path(sys.argv[0], run_name="__main__")
    found[kind] = sorted(set(opened))
Path("opened.json").write_text(json.dumps(found))
"""


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def idx_files(folder: Path) -> dict[str, str]:
    """Two classes of ten images as MNIST has them; file -> MD5."""
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        labels = bytes(number % 10 for number in range(40))
        pixels = np.random.default_rng(len(part)).bytes(40 * 4)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 40, 2, 2) + pixels)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 40) + labels)
    return {path.name: md5(path) for path in folder.iterdir()}


def cifar_files(folder: Path, train: str, labels: str, names: str, meta: str) -> dict:
    folder.mkdir(parents=True)
    for file in (train, "test_batch"):
        content = {"data": np.zeros((30, 3072), np.uint8), labels: [number % 3 for number in range(30)]}
        (folder / file).write_bytes(pickle.dumps(content))
    (folder / meta).write_bytes(pickle.dumps({names: ["a", "b", "c"]}))
    lists = {part: [(file, md5(folder / file))] for part, file in (("train_list", train), ("test_list", "test_batch"))}
    return lists | {"meta": {"filename": meta, "md5": md5(folder / meta)}}


def watched(project, dataset: str, folder: str) -> set[str]:
    """The files that DVC hashes for the stage's dependencies."""
    project.edit(study__dataset=dataset, data__image_folder__path=folder)
    repo = Repo(str(project.root))
    (stage,) = (stage for stage in repo.index.stages if getattr(stage, "name", "") == "prepare_data")
    files = set()
    for dep in stage.deps:
        folder = Path(dep.fs_path).is_dir()
        files |= set(repo.dvcignore.find(dep.fs, dep.fs_path)) if folder else {dep.fs_path}
    return files


@pytest.mark.timeout(300)
def test_what_the_stage_opens_is_watched_or_is_the_published_file(project, tmp_path):
    raw, images, outside = project.root / "data/raw", project.root / "data/images", tmp_path / "outside"
    for name in ("a.png.partial", "__pycache__/a", "deep/er/a", ".hidden/a", ".a.png"):
        paint(images / "pets/cat" / name, 50)  # what DVC may take for something else
    for split, first in (("train", 0), ("test", 20), ("val", 40)):
        paint_classes(images / "split" / split, first)
        paint_classes(outside / split, first)
        paint_classes(images / "tiny" / split, first)
    paint(images / "tiny/val/images/a", 60)
    (images / "tiny/val/val_annotations.txt").write_text("a\tcat\n")
    paint(outside / "linked.png", 61)
    (images / "pets/dog/linked").symlink_to(outside / "linked.png")
    (images / "link").symlink_to(outside)
    kinds = {
        "digits": ("digits", "data/images"),
        "mnist": ("mnist", "data/images"),
        "fashion_mnist": ("fashion_mnist", "data/images"),
        "cifar10": ("cifar10", "data/images"),
        "cifar100": ("cifar100", "data/images"),
        **{f"images in {name}": ("image_folder", f"data/images/{name}") for name in ("pets", "split", "tiny", "link")},
        "images elsewhere": ("image_folder", str(outside)),
        "images beside": ("image_folder", "../outside"),
    }
    given = {
        "kinds": kinds,
        "idx": {name: idx_files(raw / name / "raw") for name in ("MNIST", "FashionMNIST")},
        "cifar": {
            "CIFAR10": cifar_files(raw / "cifar-10-batches-py", "batch", "labels", "label_names", "batches.meta"),
            "CIFAR100": cifar_files(raw / "cifar-100-python", "train", "fine_labels", "fine_label_names", "meta"),
        },
    }
    (project.root / "given.json").write_text(json.dumps(given))
    script = project.root / "opened.py"
    script.write_text(OPENED)
    project.run(sys.executable, "opened.py")
    found = json.loads((project.root / "opened.json").read_text())
    published = {md5 for table in given["idx"].values() for md5 in table.values()}
    for lists in given["cifar"].values():
        published |= {file[1] for part in ("train_list", "test_list") for file in lists[part]} | {lists["meta"]["md5"]}
    settings = str(project.root / "params.yaml")
    for kind, where in kinds.items():
        files = {Path(name) for name in found[kind] if name.startswith(f"{tmp_path}/")}  # no package's
        files = {path for path in files if path.is_file() and not path.is_relative_to(project.root / "stages")}
        own = {str(path) for path in files if not path.is_relative_to(raw)}
        assert settings in own
        assert own <= watched(project, *where), kind
        of_published = {path for path in files if path.is_relative_to(raw)}
        assert bool(of_published) == ("mnist" in kind or "cifar" in kind)
        assert {md5(path) for path in of_published} <= published
        assert any("images" in path or "outside" in path for path in own) == (where[0] == "image_folder")


@pytest.mark.timeout(600)
def test_snakemake_and_dvc_notice_what_links_lead_to(project, tmp_path):
    here, there = paint_classes(tmp_path / "here"), paint_classes(tmp_path / "there", 100)
    paint(tmp_path / "one.png", 200)
    (here / "cat/linked").symlink_to(tmp_path / "one.png")
    link = project.root / "data/images/link"
    link.symlink_to(here)
    project.edit(data__image_folder__path="data/images/link")

    def prepared(command: str) -> bool:
        """Whether the images are read again."""
        before = (project.root / PREPARED).read_bytes() if (project.root / PREPARED).exists() else None
        if command == "dvc":
            project.run("dvc", "repro", "prepare_data")
        else:
            project.snakemake(PREPARED)
        return (project.root / PREPARED).read_bytes() != before

    assert prepared("snakemake")
    assert not prepared("dvc")
    for command in ("snakemake", "dvc"):
        time.sleep(0.01)
        paint(tmp_path / "one.png", 201 + len(command))
        assert prepared(command), f"{command}: the file that a link leads to"
        link.unlink()
        link.symlink_to(there if command == "snakemake" else here)
        assert prepared(command), f"{command}: the folder that the link leads to"
        if command == "snakemake":
            (there / "cat/linked").symlink_to(tmp_path / "one.png")
            assert prepared(command)


@pytest.mark.timeout(600)
def test_images_that_dvc_was_told_of_are_there_for_experiments(project):
    project.run("dvc", "add", "data/images/pets")
    assert project.git("status", "--porcelain", "--untracked-files=all").split() == ["??", "data/images/pets.dvc"]
    project.git("add", "-A")
    project.git("commit", "-qm", "images")
    assert "prepare_data" in stages_run(project.run("dvc", "repro", "prepare_data"))
    project.git("add", "-A")
    project.git("commit", "-qm", "prepared")
    seeds = {"--temp": 1, "--queue": 2}
    for how, seed in seeds.items():
        project.run("dvc", "exp", "run", how, "-S", f"data.split_seed={seed}", "prepare_data")
    project.run("dvc", "queue", "start")
    for _ in range(300):
        status = project.run("dvc", "queue", "status")
        if "Queued" not in status and "Running" not in status:
            break
        time.sleep(1)
    project.run("dvc", "queue", "stop", "--kill", status=None)
    assert status.count("Success") == 1, status
    for seed in seeds.values():
        project.edit(data__split_seed=seed)
        assert "prepare_data" not in stages_run(project.run("dvc", "repro", "prepare_data"))  # an experiment made it
    paint(project.root / "data/images/pets/cat/more", 99)
    assert "prepare_data" in stages_run(project.run("dvc", "repro", "prepare_data"))
    assert "prepare_data" not in project.snakemake(PREPARED)


def test_an_absent_folder_of_own_images_is_named_before_anything_starts(project):
    project.edit(study__dataset="digits", data__image_folder__path="data/images/nowhere")
    said = project.run("snakemake", "--cores", "1", status=2)
    assert "params.yaml: data.image_folder.path: 'data/images/nowhere' is not a folder" in said
    assert "Traceback" not in said
    project.edit(data__image_folder__path="data/images")
    project.run("snakemake", "--cores", "1", "-n")
