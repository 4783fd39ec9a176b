"""Can git and DVC do here what Prunus asks of them? Said, with the cure, before anything is computed.

python tools/check_checkout.py                  # `snakemake` and `make study` ask this by themselves
python tools/check_checkout.py --experiments    # what `dvc exp run` needs, --temp and the queue included

How a project was got decides it: a zip has no history, a shallow clone too little of it, a folder of another user's
gives git none. DVC notices when a stage or an experiment has been computed, or not at all.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("dvc.yaml", "params.yaml")
COMMIT = 'git add -A && git commit -m "The study"'


def git(root: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(["git", *arguments], cwd=root, env=environment, capture_output=True, text=True)


def without_git(root: Path) -> list[str]:
    """Why git answers nothing in ``root``; DVC keeps no study without it."""
    try:
        asked = git(root, "rev-parse", "--git-dir")
    except FileNotFoundError:
        return ["git is not installed; install it"]
    if "dubious ownership" in asked.stderr:
        cure = f"git config --global --add safe.directory {shlex.quote(str(root))}"
        return [f"{root} belongs to another user, so git tells nothing of it to you; `{cure}`"]
    if asked.returncode:
        return [f"{root} is no git repository (a zip has none); `git init && {COMMIT}`"]
    return []


def end_where_in_the_way(experiments: bool) -> None:
    pass
