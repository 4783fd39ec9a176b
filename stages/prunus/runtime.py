"""What surrounds a stage's computation: seeds, threads and device, times and the run record, whole-or-nothing files.

torch is imported only where a device is used, so that stages which only gather tables start quickly.
"""

import csv
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from prunus import layout

RECORDED_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scipy", "torch-pruning")


class StageError(Exception):
    """A stage cannot go on; the message is one line that says what is wrong and what to do."""


@contextmanager
def write_atomically(path: Path):
    """Yield a temporary name beside ``path``; the file appears under its real name only when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # safetensors writes files that only their owner can read
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def write_csv(path: Path, rows: list[dict], columns: list[str] | None = None) -> None:
    """Write rows of equal keys; None becomes an empty field. ``columns`` are needed where there may be no row.

    (The csv module: importing pandas takes a second.)
    """
    with write_atomically(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_json(path: Path, made_by: str) -> dict:
    """The content of a stage's JSON output; a missing file raises ``StageError`` naming the command that makes it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `{made_by}` makes it") from None


@contextmanager
def one_line_errors():
    """Turn what a user can mend into one line on stderr and exit status 1."""
    try:
        yield
    except StageError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def derive_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive_seed(0, "sap", 3, "order")``; distinct purposes are independent."""
    name = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def _lease_gpu(count: int):
    """Index of the first GPU that no other stage holds; the lock goes when the process does, however it ends.

    When all are held (``device.jobs_per_gpu`` above 1), the stages spread over the GPUs by process number.
    """
    for index in range(count):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(",", "-")
        name = Path(tempfile.gettempdir()) / f"prunus-{os.getuid()}-gpu-{visible}-{index}.lock"
        handle = open(name, "w")  # noqa: SIM115 - stays open, and so locked, for the life of the process
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _leases.append(handle)
            return index
        handle.close()
    return os.getpid() % count


_leases = []


def open_device(accelerator: str, threads: int):
    """Set torch up for reproducible numbers and return the ``torch.device`` to compute on.

    Arguments: ``accelerator`` auto, cpu or cuda; ``threads`` CPU threads of torch, whatever the launcher exported.
    Raises ``StageError`` when cuda is asked for and absent.
    """
    import torch

    torch.set_num_threads(threads)
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise StageError("device.accelerator: cuda is asked for and torch finds no GPU; allowed here: auto, cpu")
    # Not on a CPU: what is used there is deterministic anyway, and the call imports torch's compiler (4 s).
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda", _lease_gpu(torch.cuda.device_count()))


class Clock:
    """Seconds per activity. On a GPU the queue is drained at both ends, so that work is booked where it was caused."""

    def __init__(self, device=None):
        self.seconds = {}
        self._gpu = device if device is not None and device.type == "cuda" else None

    @contextmanager
    def time(self, activity: str):
        self._drain()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._drain()
            self.seconds[activity] = self.seconds.get(activity, 0.0) + time.perf_counter() - start

    def _drain(self):
        if self._gpu is not None:
            import torch

            torch.cuda.synchronize(self._gpu)


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """What this machine's processor calls itself."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _take_turn(folder: Path) -> int:
    """Wait until no other process runs the stage whose record lies in ``folder``; the descriptor that holds the turn.

    A launcher that is killed leaves its stage's script at work, and the next launcher starts the same one: both write
    the same temporary names. The lock goes when the process does, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    turn = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another process runs this stage ({folder}); waiting until it has ended", flush=True)
        fcntl.flock(turn, fcntl.LOCK_EX)
    except OSError:  # a network file system that locks no folders
        pass
    return turn


class Recorder:
    """Writes ``record.json`` when its block succeeds: git revision, versions, device, threads, seeds and seconds.

    ``measured``: what else a stage times, by name. Only ``compare`` and ``report`` read records, so what differs
    between equal runs changes nothing they compute. ``earlier_seconds``: those of runs that were stopped and whose work
    counts. What unfinished runs left is removed.
    """

    def __init__(self, path: Path, device=None, threads: int | None = None, seeds: dict[str, int] | None = None):
        self.path, self.device, self.threads, self.seeds = path, device, threads, seeds or {}
        self.clock, self.measured, self.earlier_seconds = Clock(device), {}, 0.0

    def __enter__(self):
        self._turn = _take_turn(self.path.parent)
        self._started = datetime.now(UTC)
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None:
            os.close(self._turn)
            return
        revision, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
        write_json(
            self.path,
            {
                "stage": Path(sys.argv[0]).stem,
                "git": revision,
                "dirty": None if status is None else bool(status),
                "versions": versions(),
                "device": self._device_name(),
                "processor": processor(),
                "threads": self.threads,
                "seeds": self.seeds,
                "started": self._started.isoformat(timespec="seconds"),
                "seconds": {"total": self.earlier_seconds + time.perf_counter() - self._start, **self.clock.seconds},
                "peak_gpu_bytes": self._peak_gpu_bytes(),
                **self.measured,
            },
        )
        shutil.rmtree(layout.unfinished(self.path), ignore_errors=True)
        os.close(self._turn)

    def _device_name(self) -> str:
        if self.device is None or self.device.type == "cpu":
            return "cpu"
        import torch

        return torch.cuda.get_device_name(self.device)

    def _peak_gpu_bytes(self) -> int | None:
        if self.device is None or self.device.type != "cuda":
            return None
        import torch

        return torch.cuda.max_memory_allocated(self.device)
