"""The documented ways to clean the cache delete what nothing refers to, and no result of an experiment or a study."""

import re
import shutil
from hashlib import md5

import pytest

from project import ROOT, Project

COMMAND = re.compile(r"^ *(dvc gc .+?)(?: +#.*)?$", re.MULTILINE)
PAGES = ("run-a-large-study", "sweep-a-setting")


def documented():
    return [command for page in PAGES for command in COMMAND.findall((ROOT / f"docs/how-to/{page}.md").read_text())]


def rubbish(cache):
    """An object that nothing refers to, put into the cache."""
    name = md5(b"of no study").hexdigest()
    path = cache / "files/md5" / name[:2] / name[2:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"of no study")
    return path


def gc(project, command):
    return project.run("bash", "-c", f"echo y | {command}")


def assert_all_there(project):
    """Everything of the study in the workspace comes back from the cache."""
    for folder in ("runs", "reports/tables", "reports/figures"):
        shutil.rmtree(project.root / folder)
    project.run("dvc", "checkout")
    assert "Data and pipelines are up to date." in project.run("dvc", "status")


def worktree(project, name):
    """A worktree beside the project with the project's cache, as the page on large studies lays them out."""
    project.git("worktree", "add", "-q", "-b", f"large/{name}", f"../large/{name}")
    made = Project(project.root.parent / "large" / name)
    made.run("dvc", "cache", "dir", "--local", str(project.root / ".dvc/cache"))
    return made


@pytest.mark.timeout(900)
def test_the_documented_commands_keep_experiments_branches_and_projects(finished):
    project, cache = finished, finished.root / ".dvc/cache"
    project.git("add", "-A")
    project.git("commit", "-qm", "results")
    uncommitted, _ = worktree(project, "a"), worktree(project, "b")
    project.run("dvc", "exp", "run", "-n", "swept", "-S", "methods.incop_if.epsilon=0.9")
    project.git("restore", "params.yaml", "dvc.lock")
    project.run("dvc", "checkout")
    uncommitted.edit(methods__sap__epochs=2)
    uncommitted.repro()
    commands = documented()
    assert len(commands) == 4 and all("--all-experiments" in command for command in commands)
    assert sorted("--projects" in command for command in commands) == [False, False, False, True]
    commands.sort(key=lambda command: ("--dry" not in command, "--projects" not in command))

    for command in commands:
        if command == "dvc gc --workspace --all-branches --all-experiments":
            uncommitted.git("add", "-A")  # which this one wants
            uncommitted.git("commit", "-qm", "another study", "--allow-empty")
        path = rubbish(cache)
        gc(project, command)
        assert path.exists() == ("--dry" in command), command
    assert_all_there(project)
    assert_all_there(uncommitted)
    project.run("dvc", "exp", "apply", "swept")
    assert_all_there(project)
    assert "epsilon: 0.9" in (project.root / "params.yaml").read_text()

    project.git("restore", "params.yaml", "dvc.lock")
    project.run("dvc", "checkout")
    gc(project, "dvc gc --workspace --all-branches")  # of which the pages warn
    assert "swept" in project.run("dvc", "exp", "show")
    assert "Checkout failed" in project.run("dvc", "exp", "apply", "swept", status=None)
