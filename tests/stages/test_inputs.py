"""Stages check the files that they read: one line names a damaged file and the command that makes it again."""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from prunus.study import layout
from prunus.study.reading import parse

MADE_BY = "python stages/pretrain.py --seed 0"
FLOW = "python stages/reference_flow.py --seed 0"
REFERENCES = [f"python stages/chain_reference.py --seed 0 --method {method}" for method in ("sap", "incop_gf")]
PRUNE = "python stages/prune_iteration.py --seed 0 --method sap --iteration 1"
PRUNE_BY_FLOW = "python stages/prune_iteration.py --seed 0 --method incop_gf --iteration 1"
EVALUATE_DENSE = "python stages/evaluate_dense.py --seed 0"
EVALUATE = "python stages/evaluate.py --seed 0 --method sap"
STAGES = ["python stages/prepare_data.py", MADE_BY, FLOW, *REFERENCES, PRUNE, EVALUATE_DENSE, EVALUATE]


def call(command: str, monkeypatch) -> None:
    _, script, *options = command.split()
    monkeypatch.setattr(sys, "argv", [script, *options])
    runpy.run_path(str(Path(__file__).parents[2] / script), run_name="__main__")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A study of one seed, one method and one iteration, run to its evaluation."""
    root = tmp_path_factory.mktemp("run") / "project"
    root.mkdir()
    content = parse((layout.ROOT / "params.yaml").read_text(), "params.yaml")
    content["study"] |= {"network": "linear", "seeds": [0], "methods": ["sap"]}
    content["study"]["iterations"] = content["study"]["iterations"][:1]
    content["training"] |= {"epochs": 1, "warmup_steps": 1}
    content["flow"]["samples"], content["methods"]["sap"]["epochs"] = 64, 1
    content["device"]["accelerator"] = "cpu"
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "ROOT", root)
        patch.chdir(root)
        for command in STAGES:
            call(command, patch)
    return root


def times(root):
    """When every file was written, the notes of why a stage failed apart."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "failure.json")
    return {path: path.stat().st_mtime_ns for path in files}


def test_a_reference_that_is_not_finite_is_said_and_not_written(run, tmp_path, monkeypatch, capsys):
    root = tmp_path / "project"
    shutil.copytree(run, root)
    monkeypatch.setattr(layout, "ROOT", root)
    monkeypatch.chdir(root)
    path = layout.dense(0) / "network.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("weight") and not name.startswith("mask."))
    save_file(tensors | {name: torch.full_like(tensors[name], 3e38)}, path)
    layout.reference_flow(0).unlink()
    with pytest.raises(SystemExit) as ended:
        call(FLOW, monkeypatch)
    stderr = capsys.readouterr().err
    assert ended.value.code == 1 and stderr.count("\n") == 1
    assert (
        "seed 0: the dense network's gradient flow is not finite in 1 of 1 entries: its activations are not fi"
        in stderr
    )
    assert not layout.reference_flow(0).exists()
    note = json.loads(layout.failure(layout.record("seed0", "reference_flow")).read_text())
    assert note["kind"] == "not_finite" and note["message"] in stderr


ITERATION = layout.iteration(0, "sap", 1)
READERS = [
    (MADE_BY, layout.DATASET, "python stages/prepare_data.py"),
    (FLOW, layout.DATASET, "python stages/prepare_data.py"),
    (FLOW, layout.dense(0) / "network.safetensors", MADE_BY),
    (FLOW, layout.dense(0) / "metrics.json", MADE_BY),
    (PRUNE, layout.dense(0) / "network.safetensors", MADE_BY),
    (PRUNE, layout.dense(0) / "initial.safetensors", MADE_BY),
    (REFERENCES[1], layout.reference_flow(0), FLOW),
    (PRUNE_BY_FLOW, layout.chain_reference(0, "incop_gf"), REFERENCES[1]),
    (EVALUATE_DENSE, layout.DATASET, "python stages/prepare_data.py"),
    (EVALUATE_DENSE, layout.dense(0) / "network.safetensors", MADE_BY),
    (EVALUATE, layout.DATASET, "python stages/prepare_data.py"),
    (EVALUATE, layout.dense(0) / "network.safetensors", MADE_BY),
    (EVALUATE, layout.evaluation(0, "dense") / "metrics.json", EVALUATE_DENSE),
    (EVALUATE, layout.evaluation(0, "dense") / "layers.csv", EVALUATE_DENSE),
    (EVALUATE, ITERATION / "network.safetensors", PRUNE),
    (EVALUATE, ITERATION / "pruned.safetensors", PRUNE),
    (EVALUATE, ITERATION / "metrics.json", PRUNE),
    (EVALUATE, ITERATION / "history.csv", PRUNE),
    ("python stages/compare.py", layout.evaluation(0, "sap") / "iterations.csv", EVALUATE),
    ("python stages/compare.py", layout.evaluation(0, "sap") / "layers.csv", EVALUATE),
    ("python stages/compare.py", layout.evaluation(0, "sap") / "history.csv", EVALUATE),
    ("python stages/compare.py", layout.iteration_record(0, "sap", 1), "dvc repro"),
]


def foreign(content: str, suffix: str, damage: str) -> str:
    """A stage's output with other keys or columns, or with a word in every place."""
    if suffix == ".json":
        words = dict.fromkeys(json.loads(content), "many")
        return json.dumps({"colour": "blue"} if damage == "foreign" else words)
    columns = content.split("\n")[0]
    return (
        "colour,size\nblue,3\n"
        if damage == "foreign"
        else f"{columns}\n{','.join(['many'] * len(columns.split(',')))}\n"
    )


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "foreign", "words"])
@pytest.mark.parametrize(("command", "file", "made_by"), READERS)
def test_a_stage_names_the_file_and_the_command_that_makes_it(
    run, tmp_path, monkeypatch, capsys, command, file, made_by, damage
):
    root = tmp_path / "project"
    shutil.copytree(run, root)
    monkeypatch.setattr(layout, "ROOT", root)
    monkeypatch.chdir(root)
    if damage == "missing":
        if "record" in file.name:
            pytest.skip("what a stage computed stands without its record")
        (root / file).unlink()
    elif damage in ("foreign", "words"):
        if file.suffix not in (".csv", ".json"):
            pytest.skip("tensors of other networks have tests of their own")
        (root / file).write_text(foreign((root / file).read_text(), file.suffix, damage))
    else:
        (root / file).write_bytes(b"" if damage == "empty" else b"\x80\x04\x95garbage\n" + os.urandom(100))
    before = times(root)
    with pytest.raises(SystemExit) as ended:
        call(command, monkeypatch)
    stderr = capsys.readouterr().err.strip()
    assert ended.value.code == 1
    assert len(stderr.splitlines()) == 1 and f"`{made_by}`" in stderr
    assert f"{file}" in stderr or (damage == "missing" and "no chain of the study is evaluated" in stderr)
    assert times(root) == before or command == MADE_BY
