"""Evaluate, compare and report what there is of a study that failed in parts.

dvc repro --keep-going; python tools/gather.py   # snakemake does it by itself

What DVC does not know to be of this study, a leftover of other settings that a failure kept from being made anew,
leaves the workspace first, so that nothing takes it for a result: DVC's cache has it, else runs/aside. Every stage runs
through DVC and nothing is trained; once the cause is mended, `dvc repro` or `snakemake` makes what is missing and what
depends on it.
"""

import os
import subprocess
import sys
from pathlib import Path

import networkx
from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.stage import PipelineStage

import dvc_status
import session

EVALUATING, GATHERING = ("evaluate_dense", "evaluate", "evaluate_at_ratio"), ("compare", "report")
CHECK = "check_params"  # says nothing of what was made


def name(stage: PipelineStage) -> str:
    return stage.addressing.split("@")[0]


def clear(repo: Repo) -> list[str]:
    """Remove the outputs that are not of this study as it stands, those of compare and report apart, and what follows
    from them; the stages that evaluate such networks, each after those it reads.

    Raises ``LockError`` while a stage is running.
    """
    with lock_repo(repo):
        changed, unmade, workspace = repo.status(), {}, dvc_status.Workspace(repo, {})
        for stage in networkx.dfs_postorder_nodes(repo.index.graph):  # what a stage reads comes before it
            if stage.addressing == CHECK:
                continue
            if stage.addressing in changed or any(earlier in unmade for earlier in repo.index.graph.successors(stage)):
                unmade[stage] = True  # in order
                if isinstance(stage, PipelineStage) and name(stage) not in GATHERING:
                    session.set_aside(workspace.unsaved(stage))
                    stage.remove_outs(ignore_remove=False, force=False)
    return [stage.addressing for stage in unmade if name(stage) in EVALUATING]


def repro(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *arguments])
    if done.returncode:
        sys.exit(f"{Path(__file__).name}: `dvc repro {arguments[-1]}` ended with status {done.returncode}; see above")


def main() -> None:
    os.chdir(Path(__file__).resolve().parents[1])
    try:
        chains = clear(Repo(_wait_for_lock=True))
    except LockError:
        sys.exit(f"{Path(__file__).name}: another dvc or snakemake is at work here; run this when it has ended")
    if chains:
        repro("--ignore-errors", *chains)  # a chain without any iteration cannot be evaluated
    for stage in GATHERING:
        repro("--force", stage)  # why runs are missing stands where DVC does not watch, so that may have changed alone


if __name__ == "__main__":
    main()
