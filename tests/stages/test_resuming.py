"""Stages that train go on where they were killed, in this process and by a real SIGKILL, to the same bytes."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import chain_reference
import prepare_data
import prepare_transfer
import pretrain
import prune_iteration
import reference_flow
import transfer
from hostile import Killed
from prunus.data.batches import batches_per_epoch
from prunus.data.dataset import load
from prunus.run import errors
from prunus.run.code import STAGES
from prunus.study import layout
from prunus.training.resuming import Resume

CPU = torch.device("cpu")
PARAMS = yaml.safe_load((layout.ROOT / layout.PARAMS).read_text())
GRAPH = yaml.safe_load((layout.ROOT / "dvc.yaml").read_text())["stages"]


class Project:
    """A study of digits in a scratch folder whose stages run in this process, and can be killed."""

    def __init__(self, root, monkeypatch):
        self.root, self._monkeypatch, self.inputs = root, monkeypatch, {}

    def run(self, script, *arguments, kill=None):
        """Run a stage; ``kill`` = (what, count): its ``count``-th write by save or finish is its last act."""
        count = {"save": 0, "finish": 0}

        class Watched(Resume):
            def __init__(watched, recorder, inputs):
                self.inputs[script.__name__] = list(inputs)
                super().__init__(recorder, inputs)

            def save(watched, *state):
                super().save(*state)
                watched.die("save")

            def finish(watched, result):
                super().finish(result)
                watched.die("finish")

            def die(watched, what):
                count[what] += 1
                if kill == (what, count[what]):
                    raise Killed

        self._monkeypatch.setattr(sys, "argv", [script.__file__, *map(str, arguments)])
        if hasattr(script, "Resume"):
            self._monkeypatch.setattr(script, "Resume", Watched)
        script.main()

    def bytes(self):
        """All outputs but records."""
        files = [path for path in Path("runs").rglob("*") if path.is_file()]
        return {str(path): path.read_bytes() for path in files if layout.RECORDS not in path.parents}


@pytest.fixture
def project(folder, monkeypatch):
    """A prepared study with a dense network and its flow; images of digits 0 to 4, and of 5 to 9 to transfer to."""
    monkeypatch.setattr(layout, "ROOT", folder)
    content = json.loads(json.dumps(PARAMS))
    content["study"] |= {"network": "mlp", "methods": ["sap"], "seeds": [0]}
    content["study"]["iterations"] = PARAMS["study"]["iterations"][:2]
    content["data"] |= {"classes": [0, 1, 2, 3, 4], "fraction": 0.3}
    content["training"] |= {"epochs": 3, "warmup_steps": 6}
    content["flow"]["samples"] = 64
    content["device"]["accelerator"] = "cpu"
    content["transfer"] |= {"datasets": ["digits"], "methods": ["sap"], "classes": [5, 6, 7, 8, 9], "epochs": 3}
    content["transfer"]["fraction"] = 0.3
    content["methods"]["sap"] |= {"epochs": 4, "rewind": "warmup"}
    content["methods"]["incop_gf"] |= {"epsilon": 0.0, "max_epochs": 4}
    content["methods"]["oto"] |= {"epochs": 3, "warmup_epochs": 1, "penalty": 1.0}
    (folder / layout.PARAMS).write_text(yaml.safe_dump(content))
    project = Project(folder, monkeypatch)
    project.run(prepare_data)
    project.run(pretrain, "--seed", 0)
    project.run(reference_flow, "--seed", 0)
    for method in ("sap", "incop_gf", "oto", "imp_channels"):
        project.run(chain_reference, "--seed", 0, "--method", method)
    return project


def test_pretraining_ends_with_the_same_bytes(project, capsys):
    undisturbed = project.bytes()
    for count in (1, 1):
        with pytest.raises(Killed):
            project.run(pretrain, "--seed", 0, kill=("save", count))
    project.run(pretrain, "--seed", 0)
    assert "seed 0 dense: goes on after epoch 2 of 3" in capsys.readouterr().out
    assert project.bytes() == undisturbed
    assert json.loads(layout.iteration_record(0, "dense", 0).read_text())["resumed_after_epochs"] == [1, 2]


@pytest.mark.parametrize("method", ["sap", "incop_gf", "oto"])
def test_an_iteration_ends_with_the_same_bytes(project, method, capsys):
    arguments = (prune_iteration, "--seed", 0, "--method", method, "--iteration", 1)
    project.run(*arguments)
    undisturbed = project.bytes()
    with (layout.iteration(0, method, 1) / layout.HISTORY).open(newline="") as file:
        last = len(list(csv.DictReader(file))) - 1
    capsys.readouterr()
    for _ in range(last):
        with pytest.raises(Killed):
            project.run(*arguments, kill=("save", 1))
    project.run(*arguments)
    assert f"seed 0 {method} iteration 1: goes on after epoch {last} of" in capsys.readouterr().out
    assert last >= 2 and project.bytes() == undisturbed


def test_rewound_to_the_warm_up_an_iteration_trains_what_is_left(project):
    """And rewound to any other point it trains all of its epochs."""
    content = yaml.safe_load((project.root / layout.PARAMS).read_text())
    steps = batches_per_epoch(len(load(layout.DATASET, CPU).splits["train"].labels), 64)
    assert steps <= content["training"]["warmup_steps"] < 2 * steps
    for rewind, trained in (("warmup", 3), ("initial", 4), ("trained", 4), ("none", 4)):
        content["methods"]["sap"]["rewind"] = rewind
        (project.root / layout.PARAMS).write_text(yaml.safe_dump(content))
        project.run(prune_iteration, "--seed", 0, "--method", "sap", "--iteration", 1)
        metrics = json.loads((layout.iteration(0, "sap", 1) / layout.METRICS_NAME).read_text())
        assert metrics["epochs"] == metrics["epoch"] == trained
    content["methods"]["sap"] |= {"rewind": "warmup", "epochs": 1}
    (project.root / layout.PARAMS).write_text(yaml.safe_dump(content))
    with pytest.raises(errors.StageError, match="seed 0 sap iteration 1: .* nothing is left to train"):
        project.run(prune_iteration, "--seed", 0, "--method", "sap", "--iteration", 1)


def test_networks_that_went_to_another_task_do_not_go_again(project, capsys):
    for t in (1, 2):
        project.run(prune_iteration, "--seed", 0, "--method", "sap", "--iteration", t)
    project.run(prepare_transfer, "--dataset", "digits")
    arguments = (transfer, "--dataset", "digits", "--seed", 0, "--method", "sap")
    project.run(*arguments)
    undisturbed = project.bytes()
    kills = [("save", 1), ("save", 1), ("finish", 1), ("save", 1), ("finish", 1)]
    for kill in kills:
        with pytest.raises(Killed):
            project.run(*arguments, kill=kill)
    capsys.readouterr()
    project.run(*arguments)
    whose = "digits to digits, seed 0 sap"
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"{whose}: goes on after 2 of 2 networks" and last.startswith(f"{whose} iteration 2: test accuracy")
    assert project.bytes() == undisturbed
    record = json.loads(layout.record("transfers", "digits", "seed0", "sap").read_text())
    assert record["resumed_after_epochs"] == [1, 2, 0, 1, 0]


def test_a_checkpoint_depends_on_the_data_that_dvc_knows_the_stage_to_read(project):
    """Else it would outlive a change of an input."""
    (layout.iteration(0, "sap", 1)).mkdir(parents=True)
    (layout.iteration(0, "sap", 1) / layout.METRICS_NAME).write_text('{"channels_removed": 0.3}')
    pruning = (prune_iteration, "--seed", 0, "--method", "imp_channels", "--iteration", 1)
    inputs_by_stage = {"pretrain": project.inputs["pretrain"]}
    for stage, arguments in (("prune_iteration", pruning), ("prune_at_ratio", (*pruning, "--ratio-of", "sap"))):
        with pytest.raises(Killed):
            project.run(*arguments, kill=("save", 1))
        inputs_by_stage[stage] = project.inputs["prune_iteration"]
    project.run(prepare_transfer, "--dataset", "digits")
    with pytest.raises(Killed):
        project.run(transfer, "--dataset", "digits", "--seed", 0, "--method", "dense", kill=("save", 1))
    inputs_by_stage["transfer"] = project.inputs["transfer"]
    item = {"seed": 0, "dataset": "digits", "iteration.after": "../dense", "iteration.t": 1}
    for stage, inputs in inputs_by_stage.items():
        method = "dense" if stage == "transfer" else "imp_channels"
        values = {f"item.{key}": value for key, value in item.items()}
        values |= {"item.method": method, "imposed.ratio_of": "sap"}
        listed = set()
        for path in GRAPH[stage]["deps"]:
            for key, value in values.items():
                path = path.replace(f"${{{key}}}", str(value))
            if not path.startswith("stages/") and path != str(layout.CHECKED):  # of which nothing is read
                listed.add((project.root / path).resolve())
        inputs = {path.resolve() for path in inputs}
        covered = {dep for dep in listed for path in inputs if path == dep or dep in path.parents}
        assert covered == listed, stage
        assert all(path in listed or listed & set(path.parents) for path in inputs), stage


def test_a_stage_killed_for_real_goes_on_to_the_same_bytes(project, tmp_path_factory):
    content = yaml.safe_load((project.root / layout.PARAMS).read_text())
    content["training"]["epochs"] = 100
    (project.root / layout.PARAMS).write_text(yaml.safe_dump(content))
    root = tmp_path_factory.mktemp("killed")
    shutil.copytree(project.root / "data", root / "data")
    shutil.copy(project.root / layout.PARAMS, root)
    shutil.copytree(STAGES, root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "stages/pretrain.py", "--seed", "0"]
    file = root / layout.unfinished(layout.iteration_record(0, "dense", 0)) / layout.CHECKPOINT
    with subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL) as process:
        while not file.exists() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (root / layout.dense(0) / layout.NETWORK).exists()
    again = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "seed 0 dense: goes on after epoch " in again.stdout
    record = json.loads((root / layout.iteration_record(0, "dense", 0)).read_text())
    assert len(record["resumed_after_epochs"]) == 1 and not file.parent.exists()
    project.run(pretrain, "--seed", 0)
    for name in ("initial.safetensors", "warmup.safetensors", layout.NETWORK, layout.HISTORY, layout.METRICS_NAME):
        assert (root / layout.dense(0) / name).read_bytes() == (layout.dense(0) / name).read_bytes(), name
