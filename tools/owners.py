"""Who is making a stage, known on every machine that shares the folder.

DVC notes in .dvc/tmp/rwlock what a stage reads and writes, with the number of its process. On another machine that
number means nothing: a dead process passes for a living one and blocks the stage for ever, or a living one passes for
dead. Here a process holds a lock (flock) on a file named after its stage, which goes when the process or its machine
does.
"""

import fcntl
import json
import os
import platform
from collections import defaultdict
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from dvc.fs import localfs
from dvc.lock import make_lock

FOLDER = Path(".dvc/tmp/stages")


class Busy(BaseException):
    """A living process uses a path of this stage. (Not an ``Exception``: DVC turns those into an exit status.)"""


def hold(stage: str):
    """The open file that says this process makes ``stage``; waits for another that does, here or elsewhere."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = open(FOLDER / stage, "w")  # noqa: SIM115 - stays open, and so locked, for the life of the process
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def stage_of(owner: dict) -> str | None:
    """The stage that the process of an entry makes; None if plain DVC wrote the entry."""
    script, *arguments = owner["cmd"].split()
    return arguments[0] if script.endswith("one_stage.py") else None


def alive(owner: dict, me: dict) -> bool:
    """Whether the process of an entry lives: by its stage's lock or, if plain DVC wrote the entry, by its number."""
    stage = stage_of(owner)
    if stage is None:
        return psutil.pid_exists(owner["pid"])
    if stage == stage_of(me):
        return False  # whose lock is mine now
    with suppress(FileNotFoundError), open(FOLDER / stage, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def entries(folder: str, hardlink: bool):
    """Yield the file's entries, ``(mode, path, owner)`` with mode read or write, and keep what the block leaves."""
    path = Path(folder, "rwlock")
    with make_lock(f"{path}.lock", tmp_dir=folder, hardlink_lock=hardlink, wait=True):
        noted = {}
        with suppress(FileNotFoundError, json.JSONDecodeError):  # cut short by a death, as nobody else writes now
            noted = json.loads(path.read_text(encoding="utf-8"))
        found = [("write", name, owner) for name, owner in noted.get("write", {}).items()]
        found += [("read", name, owner) for name, owners in noted.get("read", {}).items() for owner in owners]
        yield found
        noted = {"write": {}, "read": defaultdict(list)}
        for mode, name, owner in found:
            if mode == "write":
                noted["write"][name] = owner
            else:
                noted["read"][name].append(owner)
        partial = path.with_name("rwlock.partial")
        partial.write_text(json.dumps(noted), encoding="utf-8")
        os.replace(partial, path)


@contextmanager
def rwlock(folder, fs, cmd, read, write, hardlink):
    """``dvc.rwlock.rwlock``: the same file and meaning, with ``alive`` for whether an owner lives. Raises ``Busy``."""
    me = {"pid": os.getpid(), "cmd": f"{cmd} on {platform.node()}"}
    with entries(folder, hardlink) as found:
        dead = []
        for mode, name, owner in found:
            mine = read + write if mode == "write" else write
            if owner != me and owner not in dead and any(localfs.overlaps(path, name) for path in mine):
                if alive(owner, me):
                    raise Busy(f"{os.path.relpath(name)} is in use by `{owner['cmd']}`, process {owner['pid']}")
                dead.append(owner)
        wanted = [("read", path, me) for path in read] + [("write", path, me) for path in write]
        added = [entry for entry in wanted if entry not in found]  # the rest is an outer block's
        found[:] = [entry for entry in found if entry[2] not in dead] + added
    try:
        yield
    finally:
        with entries(folder, hardlink) as found:
            found[:] = [entry for entry in found if entry not in added]
