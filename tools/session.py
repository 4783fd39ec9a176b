"""What the Snakefile does before it plans and around what it runs: it finds its folder and a place to write, is the
only launcher here, and ends within seconds when it is asked to."""

import errno
import fcntl
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

ROOM = 256 << 10  # bytes that must be free: a run writes a log, a few databases and dvc.lock
PATIENCE = 1.5  # seconds that processes get to end by themselves
GOES_ON = "PRUNUS_GOES_ON"  # the command that a stop names; empty: who started Snakemake says it


def check_place(project: str) -> None:
    """End the process in one line where Snakemake cannot work: in another folder, without room or right to write."""
    if os.path.realpath(project) != os.path.realpath(os.curdir):
        sys.exit(f"snakemake: run it in the project's folder: `cd {shlex.quote(project)}`, or `--directory` with it")
    folder = os.path.abspath(".snakemake")
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(ROOM))
    except OSError as error:
        cure = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "let it be written to"
        sys.exit(f"snakemake: {folder}: {error.strerror}; {cure}, then run the same command again")


def only_one(path: Path = Path(".snakemake/running")):
    """The open file that says this process runs the study. Ends the process in one line where another one does.

    The lock is the system's, unlike Snakemake's own (`nolock` in the profile): it is gone with the process that holds
    it, however that ends. What keeps `dvc repro` out is ``dvc_status.Workspace.claim``.
    """
    path.parent.mkdir(exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        pid, _, node = file.read().strip().partition(" ")
        here = node in ("", platform.node())
        how = f": `kill {pid}`" if pid and here else ""
        sys.exit(
            f"another snakemake (process {pid or 'unknown'}{'' if here else f' on {node}'}) is running this study; "
            f"wait until it has ended, or stop it{how}"
        )
    file.truncate(0)
    file.write(f"{os.getpid()} {platform.node()}\n")
    file.flush()
    return file


def hold(stage: str, folder: Path = Path(".snakemake/stages")):
    """The open file that says this process makes ``stage``; waits for another that does, here or on another machine.

    A Snakemake that is killed leaves jobs at work. To start such a stage meanwhile would delete what it has written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / stage).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting: another process makes {stage}", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def younger(path: Path, outputs: Iterable[str]) -> str:
    """``path``, made younger than each of ``outputs`` that exists: what has it among its inputs is planned.

    Its content is another each time, for Snakemake passes over a young file that holds what it held.
    """
    newest = max((os.lstat(out).st_mtime for out in outputs if os.path.lexists(out)), default=0.0)
    if not path.exists() or path.stat().st_mtime <= newest:
        moment = max(time.time(), newest + 0.01)
        path.write_text(f"Stages that DVC calls changed have this file among their inputs ({moment}).\n")
        os.utime(path, (moment, moment))
    return str(path)


def set_aside(paths: Iterable[str], folder: Path = Path("runs/aside")) -> None:
    """Move files that nothing else holds, what a script run by hand has made for one, out of the way, and say so."""
    moved, folder = sorted(paths), folder / time.strftime("%Y-%m-%d_%H.%M.%S")
    for path in moved:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, folder / path)
    if moved:
        more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
        print(f"{moved[0]}{more}: in no cache, so kept in {folder}", file=sys.stderr)


def stop_when_asked(jobs_elsewhere: bool = False, release: Callable[[], None] = lambda: None) -> None:
    """From here on Ctrl-C and SIGTERM end this process and all it started within 5 seconds, in one line.

    Snakemake's own handler of SIGTERM waits for the stages that run, and for ever where the signal finds it holding
    its lock. ``jobs_elsewhere``: stages run on a cluster, and Snakemake cancels them; it says a few lines more.
    ``release``: what is called when all have ended.
    """
    command = os.environ.get(GOES_ON, shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    line = f"stopped; what is finished stays, and `{command}` goes on from there\n" if command else ""

    def stop(number, frame):
        for asked in (signal.SIGINT, signal.SIGTERM):
            signal.signal(asked, signal.SIG_IGN)
        os.write(2, line.encode())  # a print may find the stream in use
        if jobs_elsewhere:
            raise KeyboardInterrupt
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)  # what ends has nothing more to say; its log has it
        mine = psutil.Process().children(recursive=True)
        for end in (psutil.Process.terminate, psutil.Process.kill):
            for process in mine:
                with suppress(psutil.NoSuchProcess):
                    end(process)
            _, mine = psutil.wait_procs(mine, timeout=PATIENCE)
        with suppress(Exception):  # what it leaves, a dead process holds, which is in nobody's way
            release()
        os._exit(128 + number)

    with suppress(ValueError):  # where Snakemake runs in a thread of somebody else's process
        for asked in (signal.SIGINT, signal.SIGTERM):
            signal.signal(asked, stop)
