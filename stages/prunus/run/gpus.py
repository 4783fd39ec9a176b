"""The choice of a stage's GPU: the one with the fewest slots held by stages of this user on this machine.

A slot is a locked file. The kernel unlocks it when the last process that holds it ends, however it ends.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from itertools import count, takewhile
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
SLOT = "PRUNUS_GPU_SLOT"  # tells a stage that its launcher has chosen the GPU
POLL_SECONDS = 0.5

_held = []  # (name, open file): open, and so locked, for the life of the process


def visible() -> list[str]:
    """The GPUs this process may use, named as in CUDA_VISIBLE_DEVICES: an index, ``GPU-...`` or ``MIG-...``.

    If that is not set (Slurm sets it), nvidia-smi lists them; without nvidia-smi the list is empty.
    """
    value = os.environ.get(VISIBLE)
    if value is not None:  # CUDA stops at the first name that is not valid
        return list(takewhile(re.compile(r"\d+$|GPU-|MIG-").match, (name.strip() for name in value.split(","))))
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    parts = {}
    for gpu, part in re.findall(r"^GPU (\d+):|^\s+MIG .*UUID: ([^)\s]+)", listing.stdout, re.MULTILINE):
        if gpu:
            parts[gpu] = []
        else:  # CUDA uses one part of a divided GPU unless the parts are named
            parts[list(parts)[-1]].append(part)
    return [name for gpu, gpu_parts in parts.items() for name in gpu_parts or [gpu]]


def place(at_most: int | None = None) -> None:
    """Lease a slot for the stage that this process starts: it sees only that GPU. Without GPUs nothing changes.

    ``at_most``: wait until a GPU has fewer stages than this; None: never wait.
    """
    names = visible()
    if names:
        while (leased := _lease(names, at_most)) is None:
            time.sleep(POLL_SECONDS)
        position, slot = leased
        os.environ.update({VISIBLE: names[position], SLOT: str(slot)})


def take(number: int) -> int:
    """Torch's index of the GPU to compute on, of ``number``; its slot is held until this process ends."""
    names = visible()
    if SLOT in os.environ:
        _hold(names[0], Path(os.environ[SLOT]))  # held by the stage too: dvc may be killed and leave it running
        return 0
    return _lease(names[:number] if len(names) >= number else [str(index) for index in range(number)])[0]


def held() -> str | None:
    """The name of the GPU on which this process holds a slot."""
    return _held[0][0] if _held else None


def _lease(names: list[str], at_most: int | None = None) -> tuple[int, Path] | None:
    """The position of the first name with the fewest held slots, and a new slot on it; None if all have ``at_most``
    stages."""
    folder = Path(tempfile.gettempdir(), f"prunus-{os.getuid()}-gpus")
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "choosing").open("a") as choosing:
        fcntl.flock(choosing, fcntl.LOCK_EX)
        taken = [{slot for slot in folder.glob(f"{_file(name)},*") if not _free(slot)} for name in names]
        position = min(range(len(names)), key=lambda index: len(taken[index]))
        if at_most is not None and len(taken[position]) >= at_most:
            return None
        slots = (folder / f"{_file(names[position])},{number}" for number in count())
        slot = next(slot for slot in slots if slot not in taken[position])
        _hold(names[position], slot)
        return position, slot


def _file(name: str) -> str:
    return name.replace("/", "_")


def _free(slot: Path) -> bool:
    with slot.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _hold(name: str, slot: Path) -> None:
    """A shared lock: a stage and its launcher hold the same slot; an exclusive lock on it is refused."""
    handle = slot.open("a")
    fcntl.flock(handle, fcntl.LOCK_SH)
    _held.append((name, handle))
