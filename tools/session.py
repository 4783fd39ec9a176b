"""What the Snakefile does before it plans and around what it runs: it checks its folder and the room to write, is the
only launcher here, and stops within seconds."""

import errno
import fcntl
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

ROOM = 256 << 10  # bytes that must be free: a run writes a log, a few databases and dvc.lock
PATIENCE = 1.5  # seconds that processes get to end by themselves
GOES_ON = "PRUNUS_GOES_ON"  # variable with the command that a stop names; empty: the caller names it


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
        cure = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
        sys.exit(f"snakemake: {folder}: {error.strerror}; {cure}, then run the same command again")


def only_one(path: Path = Path(".snakemake/running")):
    """The open file that says this process runs the study. Ends the process in one line where another one does.

    The operating system holds the lock, unlike Snakemake's own (`nolock` in the profile): it goes with its process,
    however that ends. ``dvc_status.Workspace.claim`` keeps `dvc repro` out.
    """
    path.parent.mkdir(exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        pid, _, node = file.read().strip().partition(" ")
        on_this_machine = node in ("", platform.node())
        place = "" if on_this_machine else f" on {node}"
        command = f": `kill {pid}`" if pid and on_this_machine else ""
        sys.exit(
            f"another snakemake (process {pid or 'unknown'}{place}) is running this study; wait until it has ended, or "
            f"stop it{command}"
        )
    file.truncate(0)
    file.write(f"{os.getpid()} {platform.node()}\n")
    file.flush()
    return file


def hold(stage: str, folder: Path = Path(".snakemake/stages")):
    """The open file that says this process makes ``stage``; waits for another that does, here or on another machine.

    A killed Snakemake leaves jobs at work. Starting such a stage again would delete what it has written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / stage).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting: another process makes {stage}", file=sys.stderr, flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def wait_for(stages: Iterable[str], folder: Path = Path(".snakemake/stages")) -> bool:
    """Wait as ``hold`` does until nobody makes any of ``stages``; whether somebody did."""
    busy = []
    for stage in filter(lambda stage: (folder / stage).exists(), stages):
        with (folder / stage).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy.append(stage)
    for stage in busy:
        hold(stage, folder).close()
    return bool(busy)


def fails(check: Callable[[], None]) -> bool:
    """Whether ``check`` ends the process, here one of its own, which leaves no import behind and finds most done."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # the caller says that it was stopped
        check()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except Exception:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def younger(path: Path, outputs: Iterable[str]) -> str:
    """Make ``path`` newer than each of ``outputs`` that exists, so that stages with it as an input are planned.

    Its content changes each time, because Snakemake ignores a newer file with the same content. Returns the path.
    """
    newest = max((os.lstat(out).st_mtime for out in outputs if os.path.lexists(out)), default=0.0)
    if not path.exists() or path.stat().st_mtime <= newest:
        moment = max(time.time(), newest + 0.01)
        path.write_text(f"Stages that DVC calls changed have this file among their inputs ({moment}).\n")
        os.utime(path, (moment, moment))
    return str(path)


def set_aside(paths: Iterable[str], folder: Path = Path("runs/aside")) -> None:
    """Move files that exist nowhere else, such as those of a script run by hand, out of the way, and print where."""
    moved = sorted(paths)
    folder = folder / time.strftime("%Y-%m-%d_%H.%M.%S")
    for path in moved:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, folder / path)
    if moved:
        more = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
        print(f"{moved[0]}{more}: not in DVC's cache, so kept in {folder}", file=sys.stderr)


def stop_when_asked(jobs_elsewhere: bool = False, release: Callable[[], None] = lambda: None) -> None:
    """From here on Ctrl-C and SIGTERM end this process and all it started within 5 seconds, in one line.

    Snakemake's own handler of SIGTERM waits for the stages that run, and for ever if Snakemake holds its lock at that
    moment. ``jobs_elsewhere``: stages run on a cluster, and Snakemake cancels them, with a few lines more.
    ``release``: called when all have ended.
    """
    command = os.environ.get(GOES_ON, shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    line = f"stopped; what is finished stays, and `{command}` goes on from there\n" if command else ""

    def stop(number, frame):
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_IGN)
        os.write(2, line.encode())  # a print may find the stream in use
        if jobs_elsewhere:
            raise KeyboardInterrupt
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)  # messages of the processes that end are in their logs
        children = psutil.Process().children(recursive=True)
        for end in (psutil.Process.terminate, psutil.Process.kill):
            for process in children:
                with suppress(psutil.NoSuchProcess):
                    end(process)
            _, children = psutil.wait_procs(children, timeout=PATIENCE)
        with suppress(Exception):  # a lock that a dead process leaves blocks nobody
            release()
        os._exit(128 + number)

    with suppress(ValueError):  # not possible where Snakemake runs in a thread of another program
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
