"""Check that git and DVC can do here what a study needs; print what they cannot, with the cure, before anything runs.

python tools/check_checkout.py [FOLDER]    # `snakemake`, `make study` and an experiment's first stage do this

It depends on how the project was obtained: a zip has no history, a shallow clone too little, and git refuses a folder
that belongs to another user. DVC notices late or not at all: it computes an experiment and then loses it.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IN_COMMIT = ("dvc.yaml", "params.yaml")
COMMIT = 'git add -A && git commit -m "The study"'
COPYING = "`dvc exp run --temp` and `dvc queue`"  # they run experiments in a copy of the project
IN_AN_ADDRESS = "#?%"  # they pass the folder on as a URL


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(["git", *arguments], cwd=root, env=environment, capture_output=True, text=True)


def no_repository(root: Path) -> list[str]:
    """Why DVC cannot work in ``root``: a line with the cure, or none."""
    try:
        result = git(root, "rev-parse", "--git-dir")
    except FileNotFoundError:
        return ["git is not installed, and DVC needs it; install it"]
    if result.returncode and "dubious ownership" not in result.stderr:
        return [f"{root} is not in a git repository (a zip of the project has none); `git init && {COMMIT}`"]
    return []


def not_mine(root: Path) -> list[str]:
    """Why git refuses this user the repository: records lack their revision, and DVC runs no experiment."""
    if "dubious ownership" in git(root, "rev-parse", "--git-dir").stderr:
        cure = f"git config --global --add safe.directory {shlex.quote(str(root))}"
        return [f"{root} belongs to another user: records have no git revision, experiments cannot run; `{cure}`"]
    return []


def no_experiments(root: Path) -> list[str]:
    """Why experiments in a copy of the project (`dvc exp run --temp`, the queue) fail or are lost."""
    if git(root, "rev-parse", "--verify", "HEAD").returncode:
        return [f"nothing is committed here, and experiments start from a commit; `{COMMIT}`"]
    problems = []
    if absent := [name for name in IN_COMMIT if git(root, "cat-file", "-e", f"HEAD:./{name}").returncode]:
        problems.append(f"{' and '.join(absent)} not committed, and experiments start from a commit; `{COMMIT}`")
    if git(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        problems.append(f"a shallow clone: {COPYING} compute and then lose their results; `git fetch --unshallow`")
    if characters := "".join(sorted({c for c in str(root) if c in IN_AN_ADDRESS or not c.isascii()})):
        problems.append(
            f"{COPYING} fail or lose results below a folder with {characters!a} in its name; move {root} to another"
        )
    for key in ("name", "email"):
        in_environment = all(os.environ.get(f"GIT_{who}_{key.upper()}") for who in ("AUTHOR", "COMMITTER"))
        if not in_environment and not git(root, "config", f"user.{key}").stdout.strip():
            problems.append(f"{COPYING} fail without git's user.{key}; `git config --global user.{key} YOURS`")
    return problems


def end_where_useless(root: Path = ROOT, to_git: bool = False, experiments: bool = False) -> None:
    """End the process where this study cannot run here, and print what else cannot.

    ``to_git``: the study asks git itself; ``experiments``: it runs some.
    """
    fatal = no_repository(root)
    warnings = []
    if not fatal:
        (fatal if to_git else warnings).extend(not_mine(root))
    if not fatal and not warnings:
        (fatal if experiments else warnings).extend(no_experiments(root))
    for line in warnings + fatal:
        print(line, file=sys.stderr, flush=True)
    if fatal:
        sys.exit(2)


if __name__ == "__main__":
    end_where_useless(Path(*sys.argv[1:]) if sys.argv[1:] else ROOT, to_git=True, experiments=True)
    print("git and DVC can do here all that a study needs")
