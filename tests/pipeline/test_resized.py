"""A grey dataset of 8 pixels through an ImageNet network, stage by stage: images repeated to RGB and resized to 32."""

import csv
import json
import subprocess
import sys

import pytest
from safetensors import safe_open

from project import environment, make_project

# pretrain.py with weights as drawn in the place of the download; every later stage builds the form and loads them.
PRETRAIN = """
import runpy, sys
sys.path.insert(0, "stages")
from prunus.networks import resnet
resnet.load_imagenet = lambda network, name: None
sys.argv = ["stages/pretrain.py", "--seed", "0"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    study = {"study.network": "resnet18", "study.methods": ["incop_if"], "data.classes": [0, 1, 2]}
    study |= {"study.iterations": [{"t": 1, "after": "../dense"}], "methods.incop_if.max_epochs": 2}
    study |= {"methods.incop_if.reference_quirks": True, "methods.incop_if.every": 2}
    study |= {"network.pretrained": True, "network.side": 32, "training.augment": "flip_crop"}
    study |= {"training.epochs": 1, "training.warmup_steps": 1, "training.sgd.learning_rate": 0.001}
    study |= {"data.fraction": 0.2, "flow.samples": 32}
    study = {key.replace(".", "__"): value for key, value in study.items()}
    return make_project(tmp_path_factory.mktemp("resized") / "project", **study)


def stage(project, *arguments):
    done = subprocess.run(arguments, cwd=project.root, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_stage_sees_the_network_s_images(project):
    stage(project, sys.executable, "stages/prepare_data.py")
    with safe_open(project.root / "data/prepared/dataset.safetensors", framework="pt") as file:
        assert file.get_slice("train_images").get_shape()[1:] == [1, 8, 8]
    stage(project, sys.executable, "-c", PRETRAIN)
    for script, *arguments in (
        ("reference_flow",),
        ("chain_reference", "--method", "incop_if"),
        ("prune_iteration", "--method", "incop_if", "--iteration", "1"),
        ("evaluate_dense",),
        ("evaluate", "--method", "incop_if"),
    ):
        stage(project, sys.executable, f"stages/{script}.py", "--seed", "0", *arguments)
    with (project.root / "runs/seed0/incop_if/iteration-1/history.csv").open(newline="") as file:
        assert [bool(row["distance"]) for row in csv.DictReader(file)] == [False, True]
    reference = json.loads((project.root / "runs/seed0/reference_flow.json").read_text())
    assert len(reference["information"]) == 17  # as published: 18 layers of ResNet-18
    with (project.root / "runs/evaluations/seed0/incop_if/layers.csv").open(newline="") as file:
        first = next(row for row in csv.DictReader(file) if row["layer"] == "conv1")
    assert int(first["macs"]) == 64 * 3 * 7**2 * 16**2  # 7x7 with stride 2 on 3x32x32
