"""Evaluate, compare and report what is there of a study that failed in parts.

dvc repro --keep-going; python tools/gather.py   # snakemake does it by itself

Outputs of other settings leave the workspace first, so that none is taken for a result: they stay in DVC's cache or in
runs/aside. Nothing is trained. Once the cause is fixed, `dvc repro` or `snakemake` makes what is missing and what
depends on it.
"""

import os
import subprocess
import sys
from pathlib import Path

import dvc_status
import session

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "stages"))
from prunus.study import layout  # noqa: E402

EVALUATING, GATHERING = ("evaluate_dense", "evaluate", "evaluate_at_ratio"), ("compare", "report")
CHECK = "check_params"  # whose output is always the same


def clear(project: dvc_status.Workspace) -> list[str]:
    """Remove what does not belong to this study; returns the stages that evaluate its networks, in order.

    A stage that waits for another has not run, so its failure note is from an earlier run and is removed too.
    """
    unmade = project.following(set(project.changed) - {CHECK}, [CHECK])
    for address in set(unmade) - {*GATHERING}:
        waits = any(earlier.addressing in unmade for earlier in project.before[address])
        session.set_aside(project.unsaved(project.stages[address]))
        for path in map(Path, dvc_status.outputs(project.stages[address])):
            path.unlink(missing_ok=True)
            if waits and path.name == "record.json":
                layout.failure(path).unlink(missing_ok=True)
    return [address for address in unmade if address.split("@")[0] in EVALUATING]


def repro(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *arguments])
    if done.returncode:
        sys.exit(f"gather.py: `dvc repro {arguments[-1]}` ended with status {done.returncode}; see above")


def main() -> None:
    os.chdir(ROOT)
    try:
        project = dvc_status.Workspace()
        with session.only_one(), project.claim("python tools/gather.py"):
            chains = clear(project)
    except dvc_status.ProjectError as error:
        sys.exit(f"gather.py: {error}")
    if chains:
        repro("--ignore-errors", *chains)  # a chain without any iteration cannot be evaluated
    for stage in GATHERING:
        repro("--force", stage)  # DVC does not watch the notes of why runs are missing


if __name__ == "__main__":
    main()
