"""How a project was got: what git and DVC cannot do there is one line with its cure, before anything runs."""

import os
import shutil
import subprocess
import sys

import pytest

import check_checkout
from prunus.study import layout

SCRIPT = layout.ROOT / "tools/check_checkout.py"
FINE = "git and DVC can do here all that a study needs\n"


@pytest.fixture(autouse=True)
def identity(tmp_path, monkeypatch):
    """git knows who I am, and nothing of this machine's settings."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (tmp_path / "home").mkdir()
    git(tmp_path, "config", "--global", "user.name", "me")
    git(tmp_path, "config", "--global", "user.email", "me@localhost")


def git(folder, *arguments):
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def make(folder, repository=True):
    """The files that are asked for, with a history of two commits or none."""
    (folder / "tools").mkdir(parents=True)
    shutil.copy2(SCRIPT, folder / "tools")
    (folder / "params.yaml").write_text("one: 1\n")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    if repository:
        git(folder, "init", "-q")
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", "one")
        git(folder, "commit", "-qm", "two", "--allow-empty")
    return folder


def check(folder):
    """What the script says; whether it is satisfied must be its status."""
    done = subprocess.run([sys.executable, "tools/check_checkout.py"], cwd=folder, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == (0 if said == FINE else 2)
    return said


def cure(folder, said):
    """Do what stands in the backquotes at the end of the line."""
    command = said.strip().removesuffix("`").rpartition("`")[2]
    subprocess.run(command.replace("YOURS", "me"), shell=True, cwd=folder, check=True, capture_output=True)


def test_a_clone_a_worktree_a_submodule_and_a_detached_head_are_fine(tmp_path):
    origin = make(tmp_path / "with space & more")
    git(tmp_path, "clone", "-q", str(origin), "clone")
    git(origin, "worktree", "add", "-q", "--detach", str(tmp_path / "worktree"))
    (tmp_path / "parent").mkdir()
    git(tmp_path / "parent", "init", "-q")
    git(tmp_path / "parent", "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(origin), "sub")
    for folder in (origin, tmp_path / "clone", tmp_path / "worktree", tmp_path / "parent/sub"):
        assert check(folder) == FINE, folder


def test_a_shallow_clone(tmp_path):
    origin = make(tmp_path / "origin")
    git(tmp_path, "clone", "-q", "--depth", "1", origin.as_uri(), "shallow")
    said = check(tmp_path / "shallow")
    assert said.count("\n") == 1 and "a shallow clone" in said
    cure(tmp_path / "shallow", said)
    assert check(tmp_path / "shallow") == FINE


@pytest.mark.parametrize("around", [False, True])
def test_a_zip(tmp_path, around):
    """Beside no repository, and unpacked within one that knows nothing of it."""
    folder = make(tmp_path / "parent/zip", repository=False)
    if around:
        git(tmp_path / "parent", "init", "-q")
        git(tmp_path / "parent", "commit", "-qm", "other things", "--allow-empty")
    said = check(folder)
    assert said.count("\n") == 1
    assert ("dvc.yaml and params.yaml not committed" if around else "is not in a git repository") in said
    cure(folder, said)
    assert check(folder) == FINE


def test_a_repository_without_a_commit(tmp_path):
    folder = make(tmp_path / "project", repository=False)
    git(folder, "init", "-q")
    said = check(folder)
    assert said.count("\n") == 1 and "nothing is committed" in said
    cure(folder, said)
    assert check(folder) == FINE


@pytest.mark.parametrize(("name", "shown"), [("a#b", "#"), ("why?", "?"), ("50%20", "%"), ("m\u00fcnchen", r"\xfc")])
def test_a_folder_that_experiments_cannot_work_in(tmp_path, name, shown):
    said = check(make(tmp_path / name / "project"))
    assert said.count("\n") == 1 and f"below a folder with '{shown}' in its name; move " in said


def test_no_identity(tmp_path, monkeypatch):
    folder = make(tmp_path / "project")
    (tmp_path / "home/.gitconfig").unlink()
    said = check(folder)
    assert [line.split("without git's ")[1].split(";")[0] for line in said.splitlines()] == ["user.name", "user.email"]
    for line in said.splitlines():
        cure(folder, line)
    assert check(folder) == FINE
    (tmp_path / "home/.gitconfig").unlink()
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "me")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "me@localhost")
    assert check(folder) == FINE


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_another_user_s_project(tmp_path):
    folder = make(tmp_path / "project")
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 12345, 12345)
    said = check(folder)
    assert said.count("\n") == 1 and "belongs to another user" in said
    cure(folder, said)
    assert check(folder) == FINE


def test_no_git(tmp_path, monkeypatch):
    folder = make(tmp_path / "project")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert check(folder) == "git is not installed, and DVC needs it; install it\n"


def test_what_only_experiments_need_is_said_and_stops_nothing_else(tmp_path, capsys):
    origin = make(tmp_path / "origin")
    git(tmp_path, "clone", "-q", "--depth", "1", origin.as_uri(), "shallow")
    check_checkout.end_where_useless(tmp_path / "shallow")
    assert "a shallow clone" in capsys.readouterr().err
