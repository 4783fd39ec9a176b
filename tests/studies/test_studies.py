"""The ready-made studies: valid at every scale, saying only what differs, and applied without a trace."""

import importlib.util
import os
import re
import subprocess

import pytest
import yaml

import overlay
from prunus.reporting.sweep import flat
from prunus.study import layout
from prunus.study.checks import validate
from prunus.study.mistakes import ParamsError

SCALES = [(path.parent.name, path.stem) for path in sorted(overlay.STUDIES.glob("*/*.yaml"))]
DEFAULT = yaml.safe_load((layout.ROOT / layout.PARAMS).read_text())


def script():
    spec = importlib.util.spec_from_file_location("run_study", overlay.STUDIES / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUN = script()
GRIDS = [(name, line) for name in overlay.names() for line in RUN.grid(overlay.STUDIES / name)]


def settings(options):
    """Key -> values of a grid's `-S key=value,value` options."""
    pairs = [text.partition("=")[::2] for flag, text in zip(options, options[1:], strict=False) if flag == "-S"]
    return {key: [values] if values.startswith("[") else values.split(",") for key, values in pairs}


@pytest.mark.parametrize(("name", "scale"), SCALES)
def test_a_study_is_valid(name, scale):
    assert validate(overlay.of_study(name, scale)).study.methods


@pytest.mark.parametrize("name", overlay.names())
def test_a_study_says_only_what_differs_from_the_default(name):
    content, default = yaml.safe_load((overlay.STUDIES / name / "params.yaml").read_text()), flat(DEFAULT)
    assert [key for key, value in flat(content).items() if default[key] == value] == []


@pytest.mark.parametrize(("name", "options"), GRIDS, ids=[f"{name}-{at}" for at, (name, _) in enumerate(GRIDS)])
def test_every_point_of_a_grid_is_valid(name, options):
    for key, values in settings(options).items():
        assert key.removeprefix("~") in flat(overlay.of_study(name)), key
        for value in values:
            content = overlay.of_study(name)
            for other, others in settings(options).items():
                *parents, last = other.removeprefix("~").split(".")
                block = content
                for parent in parents:
                    block = block[parent]
                if other.startswith("~"):
                    del block[last]
                else:
                    block[last] = yaml.safe_load(value if other == key else others[0])
            validate(content)


@pytest.mark.parametrize("name", overlay.names())
def test_a_study_tells_its_question_its_command_and_its_finding(name):
    text = (overlay.STUDIES / name / "README.md").read_text()
    assert text.startswith("# ") and f"make study NAME={name}" in text
    assert re.search(r"\b(minutes?|hours?)\b", text)
    for part in re.findall(r"!?\[[^]]*\]\(([^)#:]+)\)", text):
        assert (overlay.STUDIES / name / part).exists(), part


def test_merging_goes_into_blocks_and_replaces_lists():
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 3}
    assert overlay.merged(base, {"a": {"y": [9]}}) == {"a": {"x": 1, "y": [9]}, "b": 3}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 3}
    assert overlay.merged(base, {"a": {"x": None}, "c": None}) == {"a": {"y": [1, 2]}, "b": 3}


def test_a_chain_is_spelled_as_params_yaml_spells_it():
    assert overlay.chain(5) == DEFAULT["study"]["iterations"]


def test_unknown_names_are_told_with_what_is_allowed():
    with pytest.raises(ParamsError, match="nonsense: no such study; allowed: .*baselines"):
        overlay.of_study("nonsense")
    with pytest.raises(ParamsError, match="baselines: no scale 'huge'; allowed: paper, params"):
        overlay.of_study("baselines", "huge")


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("own: 1  # comment\n")
    monkeypatch.setattr(layout, "ROOT", tmp_path)
    monkeypatch.setattr(RUN, "KEPT", tmp_path / RUN.KEPT.name)
    return tmp_path


def test_params_are_as_they_were_however_the_study_ends(project):
    with pytest.raises(KeyboardInterrupt), RUN.applied("study: 2\n"):
        assert yaml.safe_load((project / "params.yaml").read_text()) == {"study": 2}
        raise KeyboardInterrupt
    assert (project / "params.yaml").read_text() == "own: 1  # comment\n"
    assert not RUN.KEPT.exists()


def test_only_a_study_s_own_experiments_are_waited_for():
    status = """Task     Name        Created    Status
1a2b3c4  big-aunt    06:54 PM   Running
5d6e7f8  shy-dogs    06:54 PM   Failed
90ab12c  old-hare    Nov 02, 2026 Queued

Worker status: 1 active, 0 idle"""
    assert RUN.states(status, ["big-aunt", "shy-dogs"]) == {"big-aunt": "Running", "shy-dogs": "Failed"}


def test_the_next_run_restores_what_a_killed_one_left_aside(project):
    RUN.put("study: 2\n")
    assert yaml.safe_load((project / "params.yaml").read_text()) == {"study": 2}
    RUN.restore()
    assert (project / "params.yaml").read_text() == "own: 1  # comment\n"
    assert not RUN.KEPT.exists()
    RUN.restore()


def test_a_run_killed_before_it_changed_anything_leaves_params_as_they_are(project):
    RUN.KEPT.write_text("own: 1  # comment\n")
    RUN.restore()
    assert (project / "params.yaml").read_text() == "own: 1  # comment\n"
    assert not RUN.KEPT.exists()


def test_what_was_edited_after_a_kill_is_not_overwritten(project):
    RUN.put("study: 2\n")
    path = project / "params.yaml"
    path.write_text(path.read_text() + "mine: 3\n")
    with pytest.raises(SystemExit, match="`mv params.yaml.before-study params.yaml` restores it"):
        RUN.restore()
    assert yaml.safe_load(path.read_text()) == {"study": 2, "mine": 3}
    assert RUN.KEPT.read_text() == "own: 1  # comment\n"


def test_two_studies_do_not_run_at_once(project):
    RUN.alone()
    with pytest.raises(SystemExit, match="another study is running here"):
        RUN.alone()


MISSING = """stage,seed,method,iteration,kind,density,why,command
prune_iteration,0,lth,2,collapsed,0.01,no weight is left in fc1,python a.py
prune_iteration,0,lth,3,not_made,,waits for iteration 2,python b.py
transfer,0,sap,,not_made,,not made,python c.py
"""


def test_a_study_that_fails_in_parts_goes_on_and_says_what_is_missing(project, monkeypatch):
    table = project / layout.TABLES / "missing.csv"

    def snakemake(*command, output=None):
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(MISSING)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(RUN, "started", snakemake)
    assert RUN.run_study() == ["no weight is left in fc1", "not made: `python c.py`"]
    monkeypatch.setattr(RUN, "started", lambda *command, output=None: subprocess.CompletedProcess(command, 1))
    os.utime(table, (0, 0))  # of an earlier study
    with pytest.raises(SystemExit, match="ended with status 1, and there is nothing to compare"):
        RUN.run_study()


def test_why_an_experiment_failed_is_what_its_stage_said(monkeypatch):
    log = "Running stage 'x':\n> python stages/x.py\nx.py: seed 0: out of memory\nERROR: failed to reproduce 'x'\n"
    monkeypatch.setattr(RUN, "started", lambda *command, output: subprocess.CompletedProcess(command, 0, log))
    assert RUN.why("big-aunt") == "x.py: seed 0: out of memory"
    monkeypatch.setattr(RUN, "started", lambda *command, output: subprocess.CompletedProcess(command, 0, "killed\n"))
    assert RUN.why("big-aunt") == "`dvc queue logs big-aunt` says why"


@pytest.mark.parametrize("text", ["", "[]", "study:\n", "a: 1\n"])
def test_a_params_yaml_without_a_study_is_one_line(text, tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.setattr(layout, "ROOT", tmp_path)
    with pytest.raises(ParamsError, match="has no block `study`"):
        overlay.of_study("epsilon_sweep")


def test_a_params_yaml_that_is_no_text_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(layout, "ROOT", tmp_path)
    with pytest.raises(ParamsError, match="is not UTF-8 text"):
        overlay.of_study("epsilon_sweep")
