"""Files of stages: written completely or not at all, and checked when they are read."""

import errno
import json
import math
import os
import subprocess

import pytest
import torch

from hostile import refusal
from prunus.networks import checkpoint
from prunus.run import errors, files
from prunus.run.files import read_json, read_rows, write_csv, write_json
from prunus.run.record import Recorder
from prunus.study import layout

MADE_BY = "python stages/pretrain.py --seed 0"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "folder" / "file.txt"
    with files.write_atomically(target) as partial:
        partial.write_text("old")
    with pytest.raises(RuntimeError), files.write_atomically(target) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a file system of one MiB; skipped where none may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.getuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def written(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_full_disk_is_one_line_and_leaves_nothing(full_disk, capsys):
    path, tensors = full_disk / "runs" / "network.safetensors", {"a": torch.zeros(10**6)}
    checkpoint.save(full_disk / "small.safetensors", {"a": torch.zeros(10)})
    for write in (lambda: checkpoint.save(path, tensors), lambda: files.write_json(path, "x" * 2**21)):
        with pytest.raises(SystemExit), errors.one_line_errors():
            write()
        stderr = capsys.readouterr().err
        assert stderr.endswith(
            f"{path} could not be written (No space left on device); free some space and run the same command again\n"
        )
        assert written(full_disk) == [full_disk / "small.safetensors"]


def test_a_stage_whose_disk_is_full_says_so_even_if_its_note_cannot_be_written(full_disk):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(full_disk)
        (full_disk / "filling").write_bytes(bytes(2**20 - 4096 * 3))
        with (
            pytest.raises(errors.StageError, match="could not be written") as raised,
            Recorder(layout.record("seed0", "dense")),
        ):
            files.write_json(layout.dense(0) / "metrics.json", "x" * 2**16)
    assert raised.value.kind == "disk_full"
    assert not list(full_disk.rglob("*.partial"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_on_any_machine(tmp_path, number):
    with (
        pytest.raises(errors.StageError, match=r"a\.csv could not be written"),
        files.write_atomically(tmp_path / "a.csv") as partial,
    ):
        partial.write_text("half")
        raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


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
    message = refusal(read_rows, path, MADE_BY, COLUMNS)
    assert message.startswith(f"{path} is damaged ({FOREIGN[content]}") and message.endswith(
        f"`{MADE_BY}` makes it again"
    )
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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_file_holds_what_is_not_finite(value, tmp_path):
    path = tmp_path / "a.json"
    message = refusal(files.write_json, path, {"flows": {"information": [0.5, value]}, "n": 3}, kind="not_finite")
    assert message.startswith(f"{path} is not written: flows.information.1 is {value}")
    message = refusal(
        files.write_csv, tmp_path / "a.csv", [{"a": 1.0, "b": None}, {"a": 2.0, "b": value}], kind="not_finite"
    )
    assert f"a.csv is not written: 1.b is {value}" in message
    assert not list(tmp_path.iterdir())
    path.write_text(json.dumps({"flow": [0.5, value]}))
    assert "is damaged" in refusal(files.read_json, path, "python x.py", {"flow": list[float]}, kind="error")
    path.write_text('{"flow": [0.5, 1e999]}')  # JSON, and infinite when read
    message = refusal(files.read_json, path, "python x.py", {"flow": list[float]}, kind="error")
    assert "a.json is damaged (flow.1: Input should be a finite number)" in message
