"""Loaded by every Python process of a study under test: the one that makes the n-th change to the study's files, of all
processes of one role, kills itself with SIGKILL (or its whole process group), at that moment or shortly after it.

Armed by PRUNUS_FAULT = "role n delay everything folder"; ``folder``, outside the study, has the count and what was hit.
"""

import os
import signal
import sys
import threading
import time

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def role(arguments):
    names = [os.path.basename(argument) for argument in arguments[:3]]
    if "one_stage.py" in names or "dvc" in names:
        return "dvc"
    if "snakemake" in names:
        return "snakemake"
    return "stage" if any(argument.startswith("stages/") for argument in arguments[:3]) else None


def arm(wanted, nth, delay, everything, folder):
    root = os.path.join(os.getcwd(), "")
    count = os.open(os.path.join(folder, "count"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    hit = os.path.join(folder, "hit")
    busy = threading.local()

    def die(what):
        time.sleep(delay)  # where the process ends meanwhile, nothing is hit
        with open(hit, "w") as file:
            file.write(what)
        if everything:
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def watch(event, arguments):
        if (
            event not in CHANGES
            or getattr(busy, "now", False)
            or not isinstance(arguments[0], (str, bytes, os.PathLike))
        ):
            return
        if event == "open" and not (arguments[2] or 0) & WRITING:
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if not path.startswith(root) or "__pycache__" in path or "/.git/" in path:
            return
        os.write(count, b".")
        if os.fstat(count).st_size == nth:
            busy.now = True
            what = f"{' '.join(sys.argv[:4])}: {event} {path.removeprefix(root)}"
            if delay:
                threading.Thread(target=die, args=(what,), daemon=True).start()
            else:
                die(what)

    sys.addaudithook(watch)


def arm_if_wanted(arguments):
    wanted, nth, delay, everything, folder = os.environ["PRUNUS_FAULT"].split(" ", 4)
    if role(arguments) == wanted:
        arm(wanted, int(nth), float(delay), everything == "True", folder)


def arm_copy(event, arguments):
    """In a copy of a warm process, when its script begins."""
    begun = event == "exec" and not sys.argv[0].endswith("tools/warm.py")
    if begun and not armed and "PRUNUS_FAULT" in os.environ:
        armed.append(True)
        arm_if_wanted(sys.argv)


if sys.orig_argv[1].endswith("tools/warm.py"):
    armed = []
    sys.addaudithook(arm_copy)
elif "PRUNUS_FAULT" in os.environ:
    arm_if_wanted(sys.orig_argv[1:])
