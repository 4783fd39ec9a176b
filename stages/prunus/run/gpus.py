"""Which GPU a stage computes on: the one that the fewest stages of this user and machine hold a slot of.

A slot is a locked file. The kernel unlocks it when the last process that holds it is gone, however that one ended.
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
SLOT = "PRUNUS_GPU_SLOT"  # tells a stage that what started it has placed it
POLL_SECONDS = 0.5

_held = []  # (name, open file): open, and so locked, for the life of the process


def visible() -> list[str]:
    """The GPUs this process may use, named as CUDA_VISIBLE_DEVICES does: an index, ``GPU-...`` or ``MIG-...``.

    Where that is not set (Slurm sets it), nvidia-smi knows; where there is no nvidia-smi, none is known.
    """
    given = os.environ.get(VISIBLE)
    if given is not None:  # CUDA reads as far as the first name that is none
        return list(takewhile(re.compile(r"\d+$|GPU-|MIG-").match, (name.strip() for name in given.split(","))))
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    parts = {}
    for gpu, part in re.findall(r"^GPU (\d+):|^\s+MIG .*UUID: ([^)\s]+)", listing.stdout, re.MULTILINE):
        if gpu:
            parts[gpu] = []
        else:  # of a GPU cut into parts CUDA uses one, unless the parts are named
            parts[list(parts)[-1]].append(part)
    return [name for gpu, its_parts in parts.items() for name in its_parts or [gpu]]


def place(at_most: int | None = None) -> None:
    """Lease a slot for the stage that this process starts: it sees that GPU alone. Without GPUs nothing changes.

    ``at_most``: wait until some GPU has fewer stages than this; None: there is always room for one more.
    """
    names = visible()
    if names:
        while (leased := _lease(names, at_most)) is None:
            time.sleep(POLL_SECONDS)
        position, slot = leased
        os.environ.update({VISIBLE: names[position], SLOT: str(slot)})


def take(number: int) -> int:
    """Torch's index, of ``number`` GPUs, of the one to compute on; its slot is held until this process ends."""
    names = visible()
    if SLOT in os.environ:
        _hold(names[0], Path(os.environ[SLOT]))  # as well: dvc may be killed and leave this stage running
        return 0
    return _lease(names[:number] if len(names) >= number else [str(index) for index in range(number)])[0]


def held() -> str | None:
    """Name of the GPU this process holds a slot of."""
    return _held[0][0] if _held else None


def _lease(names: list[str], at_most: int | None = None) -> tuple[int, Path] | None:
    """Position of the name that the fewest hold a slot of, the first such, and the slot; None where all of them have
    ``at_most`` stages."""
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
    """Shared: a stage and what started it hold one slot, and whoever asks for it alone is refused."""
    handle = slot.open("a")
    fcntl.flock(handle, fcntl.LOCK_SH)
    _held.append((name, handle))
