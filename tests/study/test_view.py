"""A stage sees only the keys it declares, imports only its own method, and reports mistakes in both."""

import shutil
import subprocess
import sys

import pytest

from prunus.study import checks, layout, params

PROJECT = params.read()


def test_a_stage_sees_what_it_declares_and_nothing_else():
    selected = params.select(PROJECT, ["training.sgd", "methods.sap"])
    assert selected.training.sgd.batch_size == PROJECT.training.sgd.batch_size
    assert selected.methods.sap.p == PROJECT.methods["sap"].p
    for hidden in ("selected.training.epochs", "selected.study", "selected.methods.lth"):
        with pytest.raises(AttributeError):
            eval(hidden)


def test_a_bad_study_ends_a_script_with_status_2_and_one_line(tmp_path):
    (tmp_path / "stages").symlink_to(layout.ROOT / "stages")
    code = "import sys; sys.path.insert(0, 'stages'); from prunus.study import layout, params; import pathlib;"
    code += f"layout.ROOT = pathlib.Path({str(tmp_path)!r}); params.for_stage(['methods.incop_gf'])"
    text = (layout.ROOT / "params.yaml").read_text().replace("epsilon: 0.3", "epsilon: -3")
    (tmp_path / "params.yaml").write_text(text)
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 2
    wanted = "params.yaml: methods.incop_gf.epsilon: -3 should be greater than or equal to 0\n"
    assert (ran.stdout, ran.stderr) == ("", wanted)


def test_edits_since_a_stage_read_its_keys_are_found(tmp_path, monkeypatch):
    path = tmp_path / "params.yaml"
    text = (checks.layout.ROOT / "params.yaml").read_text()
    path.write_text(text)
    monkeypatch.setattr(checks.layout, "ROOT", tmp_path)
    keys = ["training", "flow.samples", "methods.sap"]
    before = params.for_stage(keys)
    assert params.edited(keys, before) == []
    path.write_text(text.replace("batch_size: ", "batch_size: 1"))
    assert params.edited(keys, before) == ["training"]
    path.write_text(text.replace("threads: 1", "threads: 2") + "# another stage's key, a comment\n")
    assert params.edited(keys, before) == []
    path.write_text(text.replace("epsilon: 0.3", "epsilon: -3"))  # of another method
    assert params.edited(keys, before) == []
    path.write_text("not: whole")
    assert params.edited(keys, before) == keys


def test_a_stage_sees_the_settings_of_its_method_and_the_other_blocks_as_written():
    selected = params.for_stage(["study", "methods.sap"])
    assert selected.methods.sap == PROJECT.methods["sap"] and vars(selected.methods).keys() == {"sap"}
    blocks = params.for_stage(["methods"]).methods
    assert type(blocks["sap"]) is dict and blocks.keys() == PROJECT.methods.keys()
    with pytest.raises(SystemExit):
        params.for_stage(["methods.lottery"])


def test_a_stage_imports_no_method_but_its_own():
    code = "import sys; sys.path.insert(0, 'stages'); from prunus.study.params import for_stage\n"
    code += "for_stage(['study', 'methods.sap']); for_stage(['methods'])\n"
    code += "print([name for name in sys.modules if name.startswith('prunus.methods.')])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=layout.ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout == "['prunus.methods.sap']\n"


def replaced(path, old, new):
    text = path.read_text()
    assert old in text
    path.unlink()  # what it is a link to stays
    path.write_text(text.replace(old, new))


@pytest.fixture
def judged(tmp_path):
    """A function that calls check_params on a copy of the project's code: status, and the lines on stderr."""
    (tmp_path / "data/images").mkdir(parents=True)
    shutil.copy(layout.ROOT / "params.yaml", tmp_path)
    shutil.copytree(layout.ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))

    def run():
        command = [sys.executable, "stages/check_params.py"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert ran.stdout == ("" if ran.returncode else "check_params: params.yaml is valid\n")
        return ran.returncode, ran.stderr.splitlines()

    return run


def test_a_mistake_in_the_block_of_a_method_of_another_study_is_said_and_stops_nothing(judged, tmp_path):
    replaced(tmp_path / "params.yaml", "penalty: 1.0", "penalty: -1.0")
    message = "params.yaml: methods.oto.penalty: -1.0 should be greater than 0 (not a method of this study: ignored)"
    assert judged() == (0, [message])
    replaced(tmp_path / "params.yaml", "  - incop_gf\n", "  - incop_gf\n  - oto\n")
    assert judged() == (2, ["params.yaml: methods.oto.penalty: -1.0 should be greater than 0"])


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("x = (\n", "SyntaxError: '(' was never closed"),
        ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere'"),
        ("import torch\nassert torch.ones(2).sum() == 3, 'no sum'\n", "AssertionError: no sum"),
    ],
)
def test_a_file_that_cannot_be_imported_stops_the_studies_that_use_it(added, message, judged, tmp_path):
    lines = {}
    for method in ("oto", "sap"):  # the shipped study uses sap only
        path = tmp_path / f"stages/prunus/methods/{method}.py"
        line = len(path.read_text().splitlines()) + len(added.splitlines())
        replaced(path, path.read_text(), path.read_text() + added)
        lines[method] = f"params.yaml: methods.{method}: stages/prunus/methods/{method}.py, line {line}: {message}"
        if method == "oto":
            assert judged() == (0, [f"{lines['oto']} (not a method of this study: ignored)"])
    assert judged() == (2, [lines["sap"]])
