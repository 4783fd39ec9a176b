"""The tutorial's commands, as they stand and in their order, on a small study; `make study` after what they leave."""

import re
import shutil

import pandas as pd
import pytest
import yaml

from project import ROOT, make_project, stages_run, whole_chain

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(kind, text) for kind, text in BLOCK.findall((ROOT / "docs/tutorial.md").read_text()) if kind]
STUDY = "studies/fashion_mnist_initial"
SMALL = {"study__iterations": [{"t": 1, "after": "../dense"}], "training__epochs": 1}


def keys(content, block=""):
    for key, value in content.items():
        yield from keys(value, f"{block}{key}.") if isinstance(value, dict) else [(f"{block}{key}", value)]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A small study, the one that the tutorial names made as small, and a .venv that is as good as set up."""
    made = make_project(tmp_path_factory.mktemp("tutorial") / "project", report=True, **SMALL)
    for name in ("Makefile", "requirements.txt"):
        shutil.copy2(ROOT / name, made.root)
    (made.root / STUDY).mkdir(parents=True)
    for name in ("run.py", "overlay.py"):
        shutil.copy2(ROOT / "studies" / name, made.root / "studies")
    (made.root / STUDY / "params.yaml").write_text("study: {methods: [lth]}\nmethods:\n  lth: {epochs: 1}\n")
    (made.root / ".venv/bin").mkdir(parents=True)
    (made.root / ".venv/bin/activate").write_text("# the tests' own tools are on the path\n")
    (made.root / ".venv/.complete").touch()
    made.git("add", "-A")
    made.git("commit", "-qm", "as cloned")
    return made


@pytest.fixture(scope="module")
def said(project):
    """What each block of commands printed; edits are made between them."""
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        for who in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{who}_NAME", "test")
            patch.setenv(f"GIT_{who}_EMAIL", "test@localhost")
        for kind, text in BLOCKS:
            if kind == "yaml":
                project.edit(**dict(keys(yaml.safe_load(text))))
            else:
                printed.append((text, project.run("bash", "-euc", text)))
    return printed


def output(said, command):
    """What the blocks with ``command`` in them printed, in order."""
    return [text for commands, text in said if re.search(rf"^{command}\b", commands, re.MULTILINE)]


def test_what_is_to_be_typed_is_marked_as_commands():
    assert {kind for kind, _ in BLOCKS} == {"sh", "yaml"}
    untold = [text for kind, text in BLOCK.findall((ROOT / "docs/tutorial.md").read_text()) if not kind]
    assert not re.search(r"^(make|dvc|snakemake|git|python|source) ?", "\n".join(untold), re.MULTILINE)


@pytest.mark.timeout(1500)
def test_every_command_works_and_does_what_the_page_says(project, said):
    stricter, back = (stages_run(text) for text in output(said, "dvc repro"))
    assert stricter == whole_chain("incop_if", [0]) | {"compare", "report"}
    assert back == set()
    (table,) = output(said, "make experiments")
    assert re.search(r"stricter.*\| 0\.01 ", table) and "methods.incop_if.epsilon" in table
    assert max(map(len, table.splitlines())) < 250
    assert (project.root / "reports/report.html").exists()


@pytest.mark.timeout(1500)
def test_the_study_at_its_end_is_that_of_the_committed_settings(project, said):
    assert "params.yaml is as it was" in said[-1][1]
    assert project.git("status", "--porcelain", "--", "params.yaml") == ""
    table = pd.read_csv(project.root / STUDY / "tables/comparison.csv")
    assert (set(table["seed"]), set(table["method"])) == ({0}, {"lth"})


@pytest.mark.timeout(1500)
def test_a_study_does_not_inherit_what_was_left_behind(project, said):
    project.edit(methods__incop_if__epsilon=0.05, study__seeds=[0, 1, 2], study__methods=["sap"])
    left = (project.root / "params.yaml").read_bytes()
    told = project.run("make", "study", f"NAME={STUDY.split('/')[1]}", status=2)
    lines = [line for line in told.splitlines() if " instead of " in line]
    assert lines == ["study.seeds: [0, 1, 2] instead of [0]", "methods.incop_if.epsilon: 0.05 instead of 0.1"]
    assert "`git restore params.yaml`" in told and "KEEP=1" in told
    assert "Job stats" not in told
    project.edit(study__seeds=[0])
    kept = project.run("make", "study", f"NAME={STUDY.split('/')[1]}", "KEEP=1")
    assert "params.yaml is as it was" in kept
    assert (project.root / "params.yaml").read_bytes() != left
    assert "epsilon: 0.05" in (project.root / "params.yaml").read_text()
