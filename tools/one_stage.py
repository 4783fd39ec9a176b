"""`ADDRESS STAGES_PER_GPU`: `dvc --wait-for-lock repro --single-item ADDRESS`, as one job of Snakemake's.

STAGES_PER_GPU: 0: the stage uses no GPU; `any`: it takes the GPU it is given; a number: it waits until a GPU has fewer
stages than that. Replaced in DVC: dvc.lock (lockfile.py), the lock of paths (Snakemake keeps stages apart, and
session.py keeps other launchers out), and the moment at which dependencies are hashed.
"""

import sys

sys.path.insert(0, "stages")
from prunus.run import warm  # first: does not return where a warm process runs this script

# isort: split
import os
import time
from contextlib import nullcontext
from copy import deepcopy

import session


def as_started(cmd_run):
    """``cmd_run`` that first records the hashes of the stage's dependencies. DVC hashes them after the stage ends; an
    edit of params.yaml or code made meanwhile would be recorded as what ran.

    Parameters and code are read once, at the start, and a script that finds one newer than the record ends. Data are
    read throughout: if they have changed at the end, nobody knows what the stage read, and it fails.
    """

    from dvc.exceptions import DvcException

    def run(stage, *arguments, **options):
        os.environ["PRUNUS_AS_STARTED"] = str(time.time_ns())
        stage.save_deps()
        stage.save_deps = lambda allow_missing=False: None
        cmd_run(stage, *arguments, **options)
        data = [dep for dep in stage.deps if dep not in stage.params and not dep.def_path.startswith("stages/")]
        if changed := [dep.def_path for dep in data if not dep.exists or dep.changed_checksum()]:
            raise DvcException(f"{changed[0]} has changed while {stage.addressing} ran; run it again")

    return run


def once(load):
    """``load(path, fs)`` that reads a file again only if it has changed: DVC parses params.yaml for each dependency."""
    loaded = {}

    def load_once(path, fs=None, **options):
        state = os.stat(path)
        key = path, state.st_ino, state.st_mtime_ns, state.st_size, str(options)
        if key not in loaded:
            loaded[key] = load(path, fs=fs, **options)
        return deepcopy(loaded[key])

    return load_once


if __name__ == "__main__":
    address, per_gpu = sys.argv[1:]
    held = session.hold(address)
    if per_gpu != "0":
        from prunus.run import gpus

        gpus.place(None if per_gpu == "any" else int(per_gpu))

    # Imported only now: a job that waits for a GPU needs little memory.
    from dvc import dvcfile, rwlock
    from dvc.cli import main
    from dvc.stage import run as running
    from dvc.utils.serialize import LOADERS

    import lockfile

    os.environ[warm.LAUNCHER] = str(os.getpid())
    lockfile.Lockfile.only = address
    dvcfile.Lockfile, rwlock.rwlock = lockfile.Lockfile, lambda *_: nullcontext()
    LOADERS[".yaml"] = once(LOADERS[".yaml"])
    running.cmd_run = as_started(running.cmd_run)
    sys.exit(main(["--wait-for-lock", "repro", "--single-item", address]))
