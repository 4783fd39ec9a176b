"""The processes of a study under test: started in a session of their own, found by their working folder, ended."""

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from project import Project, environment

POLL = 0.02


class Hung(Exception):
    """A command that did not end in its time; its processes have been killed."""


def role(pid: int) -> str | None:
    """stage, dvc, snakemake or warm: what a process of a study is. Who runs a script and who waits for that, the
    client of a warm process, have the same role."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None
    if "python" not in Path(arguments[0]).name:
        return None
    names = [Path(argument).name for argument in arguments[1:4]]
    if "warm.py" in names:  # a copy is named after its script
        return "dvc" if name == "one_stage.py" else "stage" if name.endswith(".py") else "warm"
    if "one_stage.py" in names or "dvc" in names:
        return "dvc"
    if "snakemake" in names:
        return "snakemake"
    return "stage" if any(argument.startswith("stages/") for argument in arguments[1:4]) else None


def warm() -> list[int]:
    """The warm processes of the studies under test: those whose sockets lie in this process's $TMPDIR."""
    found, folder = [], f"TMPDIR={os.environ['TMPDIR']}"
    for pid in (int(entry.name) for entry in Path("/proc").glob("[0-9]*")):
        with suppress(OSError):
            if role(pid) == "warm" and folder in Path(f"/proc/{pid}/environ").read_text().split("\0"):
                found.append(pid)
    return found


def of_study(root: Path) -> list[int]:
    """Every living process whose working folder is ``root`` or below it, this one left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            folder = os.readlink(entry / "cwd")
            alive = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
            if alive and (folder + "/").startswith(f"{root}/") and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_all(root: Path) -> None:
    """Kill what is left of a study's processes, until none is."""
    while left := of_study(root):
        kill(left)
        time.sleep(POLL)


def wait_for_orphans(root: Path, limit: float) -> int:
    """Wait until no process of the study is left; how many there were. Raises ``Hung``."""
    orphans, until = of_study(root), time.monotonic() + limit
    while of_study(root):
        if time.monotonic() > until:
            left = [f"{pid} {Path(f'/proc/{pid}/cmdline').read_text()!r}" for pid in of_study(root)]
            end_all(root)
            raise Hung(f"processes were left over after {limit:.0f} s: {left}")
        time.sleep(POLL)
    return len(orphans)


class Launch:
    """One run of a command in the project, as a user starts it."""

    def __init__(self, project: Project, command: list[str], **variables: str):
        self.root, self.command, self.output = project.root, command, ""
        self._file = tempfile.TemporaryFile("w+")  # noqa: SIM115 - no pipe: orphans may hold it
        self.process = subprocess.Popen(
            command,
            cwd=project.root,
            env=environment() | variables,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self, limit: float) -> int:
        """Exit status; ``output`` is then what it printed. Raises ``Hung``, after killing it with all its processes."""
        try:
            self.process.wait(limit)
            hung = False
        except subprocess.TimeoutExpired:
            hung = True
            end_all(self.root)
            self.process.wait()
        with self._file as file:
            file.seek(0)
            self.output = file.read()
        if hung:
            raise Hung(f"`{' '.join(self.command)}` did not end in {limit:.0f} s:\n{self.output[-2000:]}")
        return self.process.returncode
