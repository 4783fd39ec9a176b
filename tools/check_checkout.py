"""Can git and DVC do here what a study asks of them? What they can not is said, with the cure, before anything runs.

python tools/check_checkout.py [FOLDER]    # `snakemake`, `make study` and an experiment's first stage ask by themselves

It depends on how the project was got: a zip has no history, a shallow clone too little of it, git tells nothing of a
folder that is another user's. DVC notices late, or not at all: it computes an experiment and then loses it.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IN_COMMIT = ("dvc.yaml", "params.yaml")
COMMIT = 'git add -A && git commit -m "The study"'
LOST = "`dvc exp run --temp` and `dvc queue`"
IN_AN_ADDRESS = "#?%"  # they pass the folder on as a URL


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(["git", *arguments], cwd=root, env=environment, capture_output=True, text=True)


def no_repository(root: Path) -> list[str]:
    """Why DVC can do nothing at all in ``root``: a line with the cure, or none."""
    try:
        found = git(root, "rev-parse", "--git-dir")
    except FileNotFoundError:
        return ["git is not installed, and DVC needs it; install it"]
    if found.returncode and "dubious ownership" not in found.stderr:
        return [f"{root} is not in a git repository (a zip of the project has none); `git init && {COMMIT}`"]
    return []


def not_mine(root: Path) -> list[str]:
    """Why git tells this user nothing of the repository: records lack their revision, and DVC runs no experiment."""
    if "dubious ownership" in git(root, "rev-parse", "--git-dir").stderr:
        cure = f"git config --global --add safe.directory {shlex.quote(str(root))}"
        return [f"{root} is another user's: no record can name its git revision, no experiment can run; `{cure}`"]
    return []


def no_experiments(root: Path) -> list[str]:
    """Why experiments in a copy of the project, as `dvc exp run --temp` and the queue make one, fail or are lost."""
    if git(root, "rev-parse", "--verify", "HEAD").returncode:
        return [f"nothing is committed here, and experiments start from a commit; `{COMMIT}`"]
    found = []
    if absent := [name for name in IN_COMMIT if git(root, "cat-file", "-e", f"HEAD:./{name}").returncode]:
        found.append(f"{' and '.join(absent)} not committed, and experiments start from a commit; `{COMMIT}`")
    if git(root, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        found.append(f"a shallow clone: {LOST} compute and then lose their results; `git fetch --unshallow`")
    if wrong := "".join(sorted({c for c in str(root) if c in IN_AN_ADDRESS or not c.isascii()})):
        found.append(f"{LOST} fail or lose results below a folder with {wrong!a} in its name; move {root} to another")
    for key in ("name", "email"):
        given = all(os.environ.get(f"GIT_{who}_{key.upper()}") for who in ("AUTHOR", "COMMITTER"))
        if not given and not git(root, "config", f"user.{key}").stdout.strip():
            found.append(f"{LOST} fail without a user.{key} of git's; `git config --global user.{key} YOURS`")
    return found


def end_where_useless(root: Path = ROOT, to_git: bool = False, experiments: bool = False) -> None:
    """End the process where this study cannot run here, and say what else cannot.

    ``to_git``: it asks git itself; ``experiments``: it runs some.
    """
    ending, saying = no_repository(root), []
    if not ending:
        (ending if to_git else saying).extend(not_mine(root))
    if not ending and not saying:
        (ending if experiments else saying).extend(no_experiments(root))
    print(*saying, *ending, sep="\n", end="\n" * bool(saying + ending), file=sys.stderr, flush=True)
    if ending:
        sys.exit(2)


if __name__ == "__main__":
    end_where_useless(Path(*sys.argv[1:]) if sys.argv[1:] else ROOT, to_git=True, experiments=True)
    print("git and DVC can do here all that a study asks of them")
