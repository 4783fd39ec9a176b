"""What a stage reads of a run is checked: a damaged file is named in one line, with the command that makes it again."""

import json
import math
import os
import pickle
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from prunus import masks as masking
from prunus.networks import checkpoint
from prunus.run.errors import StageError
from prunus.run.files import read_json, read_rows, write_csv, write_json
from prunus.study import layout
from prunus.study.reading import parse

CPU = torch.device("cpu")
MADE_BY = "python stages/pretrain.py --seed 0"


def refusal(call, *args) -> str:
    with pytest.raises(StageError) as caught:
        call(*args)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 700
    return message


# network.safetensors


@pytest.fixture
def saved(tmp_path, small_network):
    """The path of a good network with masks, and its tensors."""
    masks = {name: torch.rand_like(weight) < 0.5 for name, weight in masking.prunable(small_network).items()}
    masking.apply(small_network, masks)
    path = tmp_path / "network.safetensors"
    checkpoint.save(path, small_network.state_dict(), masks)
    return path, load_file(path)


def test_the_good_file_is_read(saved, small_network):
    masks = checkpoint.load_into(small_network, saved[0], CPU, MADE_BY)
    assert list(masks) == ["0.weight", "5.weight", "7.weight"]
    assert all(mask.dtype == torch.bool for mask in masks.values())


def with_one(tensors, name, value, at=0):
    changed = tensors[name].clone()
    changed.view(-1)[at] = value
    return {name: changed}


DAMAGE = {
    "a weight that is no number": lambda tensors: with_one(tensors, "5.weight", math.nan),
    "an infinite bias": lambda tensors: with_one(tensors, "5.bias", -math.inf),
    "a mask of 2": lambda tensors: {"mask.5.weight": tensors["mask.5.weight"].byte() * 2},
    "a mask of floats": lambda tensors: {"mask.5.weight": tensors["mask.5.weight"].float()},
    "a mask of another shape": lambda tensors: {"mask.5.weight": tensors["mask.5.weight"][:3]},
    "a mask of nothing": lambda tensors: {"mask.9.weight": tensors["mask.5.weight"].clone()},
    "a pruned weight that is not 0": lambda tensors: {"5.weight": torch.ones_like(tensors["5.weight"])},
}
ANOTHER = {
    "a weight of another shape": lambda tensors: {"7.bias": tensors["7.bias"][:2].contiguous()},
    "a layer more": lambda tensors: {"8.weight": torch.ones(2, 2)},
    "a mask of a bias": lambda tensors: {"mask.7.bias": torch.ones(3, dtype=torch.bool)},
}
WITHOUT = ("5.weight", "7.bias", "mask.7.weight", "1.running_mean")


@pytest.mark.parametrize("what", DAMAGE)
def test_tensors_that_no_stage_writes(saved, small_network, what):
    path, tensors = saved
    save_file(tensors | DAMAGE[what](tensors), path)
    message = refusal(checkpoint.load_into, small_network, path, CPU, MADE_BY)
    assert message.startswith(f"{path} is damaged (") and message.endswith(f"; delete it, `{MADE_BY}` makes it again")


@pytest.mark.parametrize("what", [*ANOTHER, *WITHOUT])
def test_tensors_of_another_network(saved, small_network, what):
    path, tensors = saved
    tensors |= ANOTHER[what](tensors) if what in ANOTHER else {}
    save_file({name: tensor for name, tensor in tensors.items() if name != what}, path)
    message = refusal(checkpoint.load_into, small_network, path, CPU, MADE_BY)
    assert message.startswith(f"{path} ") and f"`{MADE_BY}` makes it" in message


def test_a_file_of_any_other_kind(tmp_path, small_network):
    path, executed = tmp_path / "network.safetensors", tmp_path / "executed"

    class Touch:
        def __reduce__(self):
            return Path.touch, (executed,)

    for content in (b"", b"\x00" * 20, b"[" * 10**5, pickle.dumps(Touch()), pickle.dumps(Touch(), 0)):
        path.write_bytes(content)
        assert refusal(checkpoint.load_into, small_network, path, CPU, MADE_BY).startswith(f"{path} is damaged (")
    torch.save(Touch(), path)
    assert refusal(checkpoint.load_into, small_network, path, CPU, MADE_BY).startswith(f"{path} is damaged (")
    assert not executed.exists()


def test_a_file_cut_anywhere(saved, small_network):
    path, _ = saved
    content = path.read_bytes()
    for kept in (*range(0, 200, 7), len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        assert refusal(checkpoint.load_into, small_network, path, CPU, MADE_BY).startswith(f"{path} is damaged (")


# JSON and CSV

KEYS = {"samples": int, "gradient": list[float], "distance": float | None, "quirks": dict[str, float]}
GOOD = {"samples": 5, "gradient": [1.0, 2], "distance": None, "quirks": {"a": 0.5}, "more": "is not read"}
BAD_JSON = [b"", b"{", b"null", b"[]", b"3", b'"text"', b"\xff\xfe{}", b"[" * 10**5, b'{"a":' * 10**5, b"PK\x03\x04"]
BAD_VALUES = [{"samples": "5"}, {"samples": 5.5}, {"samples": None}, {"samples": True}, {"gradient": "1, 2"}]
BAD_VALUES += [{"gradient": [1, "2"]}, {"gradient": {}}, {"distance": "near"}, {"quirks": []}, {"quirks": {"a": "b"}}]


def test_json_as_a_stage_writes_it(tmp_path):
    write_json(tmp_path / "a.json", GOOD)
    assert read_json(tmp_path / "a.json", MADE_BY, KEYS) == GOOD


@pytest.mark.parametrize("content", BAD_JSON + [json.dumps(GOOD | bad).encode() for bad in BAD_VALUES], ids=str)
def test_json_that_no_stage_writes(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    message = refusal(read_json, path, MADE_BY, KEYS)
    assert message.startswith(f"{path} is damaged (") and message.endswith(f"; delete it, `{MADE_BY}` makes it again")


@pytest.mark.parametrize("key", KEYS)
def test_json_without_a_key(tmp_path, key):
    write_json(tmp_path / "a.json", {name: value for name, value in GOOD.items() if name != key})
    assert f"a.json is damaged ({key}: Field required)" in refusal(read_json, tmp_path / "a.json", MADE_BY, KEYS)


BAD_CSV = [
    b"",
    b"epoch\n",
    b"epoch,loss\n1\n",
    b"epoch,loss\n1,2,3\n",
    b'epoch,loss\n"1,2\n',
    b"\xff\xfe\x00",
    b'a\n"b"c\n',
]


@pytest.mark.parametrize(
    "content", [*BAD_CSV, b"epoch\n" + b"9" * 200_000 + b"\n"], ids=lambda content: str(content[:30])
)
def test_rows_that_no_stage_writes(tmp_path, content):
    path = tmp_path / "history.csv"
    path.write_bytes(content)
    assert refusal(read_rows, path, MADE_BY).startswith(f"{path} is damaged (")


COLUMNS = {"epoch": int, "loss": float, "distance": float | None}
FOREIGN = {
    "epoch,loss\n1,0.5\n": "row 1, column distance: Field required",
    "epoch,loss,distance,epsilon\n1,0.5,,0.1\n": "row 1, column epsilon: Extra inputs are not permitted",
    "colour,size,weight\nblue,1,2\n": "row 1, column epoch: Field required",
    "epoch,loss,distance\n1,0.5,\n2,much,\n": "row 2, column loss: Input should be a valid number",
    "epoch,loss,distance\n1.5,0.5,\n": "row 1, column epoch: Input should be a valid integer",
    "epoch,loss,distance\n1,,0.2\n": "row 1, column loss: Input should be a valid number",
    "epoch,loss,distance\n1,nan,\n": "row 1, column loss: Input should be a finite number",
    "epoch,loss,distance\n1,0.5,inf\n": "row 1, column distance: Input should be a finite number",
}


@pytest.mark.parametrize("content", FOREIGN, ids=lambda content: content.split("\n")[1])
def test_rows_of_foreign_columns_or_types(tmp_path, content):
    path = tmp_path / "history.csv"
    path.write_text(content)
    said = refusal(read_rows, path, MADE_BY, COLUMNS)
    assert said.startswith(f"{path} is damaged ({FOREIGN[content]}") and said.endswith(f"`{MADE_BY}` makes it again")
    path.write_text("loss,epoch,distance\n0.5,1,\n0.25,2,0.75\n")
    assert read_rows(path, MADE_BY, COLUMNS) == [
        {"epoch": "1", "loss": "0.5", "distance": ""},
        {"epoch": "2", "loss": "0.25", "distance": "0.75"},
    ]


def test_a_block_of_keys_is_read_key_by_key(tmp_path):
    path, keys = tmp_path / "a.json", {"settings": {"rewind": str}, "n": int}
    write_json(path, {"settings": {"rewind": "none", "epochs": 3}, "n": 1})
    assert read_json(path, MADE_BY, keys)["settings"] == {"rewind": "none", "epochs": 3}
    write_json(path, {"settings": {"epochs": 3}, "n": 1})
    assert "a.json is damaged (settings.rewind: Field required)" in refusal(read_json, path, MADE_BY, keys)


def test_rows_as_a_stage_writes_them(tmp_path):
    rows = [{"epoch": 1, "distance": None}, {"epoch": 2, "distance": 0.5}]
    write_csv(tmp_path / "a.csv", rows)
    read = read_rows(tmp_path / "a.csv", MADE_BY)
    assert read == [{"epoch": "1", "distance": ""}, {"epoch": "2", "distance": "0.5"}]


# The stages' scripts, each on a run with one damaged file

FLOW = "python stages/reference_flow.py --seed 0"
PRUNE = "python stages/prune_iteration.py --seed 0 --method sap --iteration 1"
EVALUATE_DENSE = "python stages/evaluate_dense.py --seed 0"
EVALUATE = "python stages/evaluate.py --seed 0 --method sap"
STAGES = ["python stages/prepare_data.py", MADE_BY, FLOW, PRUNE, EVALUATE_DENSE, EVALUATE]


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
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.count("\n") == 1
    assert (
        "seed 0: the dense network's gradient flow is not finite in 1 of 1 entries: its activations are not fi" in said
    )
    assert not layout.reference_flow(0).exists()
    note = json.loads(layout.failure(layout.record("seed0", "reference_flow")).read_text())
    assert note["kind"] == "not_finite" and note["message"] in said


ITERATION = layout.iteration(0, "sap", 1)
READERS = [
    (MADE_BY, layout.DATASET, "python stages/prepare_data.py"),
    (FLOW, layout.DATASET, "python stages/prepare_data.py"),
    (FLOW, layout.dense(0) / "network.safetensors", MADE_BY),
    (FLOW, layout.dense(0) / "metrics.json", MADE_BY),
    (PRUNE, layout.dense(0) / "network.safetensors", MADE_BY),
    (PRUNE, layout.dense(0) / "initial.safetensors", MADE_BY),
    (PRUNE, layout.reference_flow(0), FLOW),
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
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 1
    assert len(said.splitlines()) == 1 and f"`{made_by}`" in said
    assert f"{file}" in said or (damage == "missing" and "no chain of the study is evaluated" in said)
    assert times(root) == before or command == MADE_BY
