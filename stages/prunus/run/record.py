"""The run record of a stage: what made its outputs, on which device, and how long it took."""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

from prunus import STARTED
from prunus.run import code, gpus
from prunus.run.device import Clock
from prunus.run.errors import StageError, explained, first_line
from prunus.run.files import write_json
from prunus.study import layout, params

RECORDED_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scipy", "torch-pruning")
# Set by a launcher that records a stage's dependencies before the stage runs: the time when that began, in ns.
AS_STARTED = "PRUNUS_AS_STARTED"
PATIENCE_WITH_DVC = 300  # seconds


def _git(*arguments: str) -> str | None:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """The name of this machine's processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    by_package = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        with suppress(PackageNotFoundError):
            by_package[package] = version(package)
    return by_package


def _take_turn(folder: Path) -> int:
    """Wait until no other process runs the stage whose record lies in ``folder``; return the descriptor of the lock.

    A launcher that is killed leaves its stage's script running, and the next launcher starts the same script: both
    would write the same temporary files. The lock ends with the process, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    turn = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another process runs this stage ({folder}); waiting until it ends", flush=True)
        fcntl.flock(turn, fcntl.LOCK_EX)
    except OSError:  # a network file system that cannot lock folders
        pass
    return turn


def _changed_since(moment: int, paths: Iterable[Path]) -> list[str]:
    """The files of ``paths`` that changed in any way after ``moment`` (ns)."""
    return [str(path) for path in paths if path.exists() and path.stat().st_ctime_ns > moment]


def _keep_turn_of_dvc() -> None:
    """Take DVC's lock of this project, after a wait if needed, until this process ends.

    `dvc repro` releases it while a stage's script runs, and waits at most 3 s to take it back. Another `dvc` that reads
    all stages holds it for longer, and the first one would end without recording its stage.
    """
    if "DVC_STAGE" not in os.environ or AS_STARTED in os.environ:
        return
    end = time.monotonic() + PATIENCE_WITH_DVC
    with suppress(OSError):
        lock = os.open(layout.ROOT / ".dvc/tmp/lock", os.O_RDONLY)
        while time.monotonic() < end:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            time.sleep(0.1)


@dataclass(frozen=True)
class Obeys:
    """What a stage's results depend on, apart from its inputs: its ``script``, the ``keys`` of params.yaml that it
    declares, and their values at the start (``params``, as ``for_stage`` returns them)."""

    script: Path
    keys: Sequence[str]
    params: SimpleNamespace

    @cached_property
    def code(self) -> list[Path]:
        """The project's files that the stage runs, including those of the methods whose settings it uses."""
        methods = [key.removeprefix("methods.") for key in self.keys if key.startswith("methods.")]
        return sorted(code.closure(self.script, methods))


class Recorder:
    """Writes ``record.json`` when its block succeeds: git revision, versions, device, threads, seeds and seconds.

    ``obeys``: code and settings that the stage depends on; None: they are not checked. ``measured``: further entries,
    by name. Only ``compare`` and ``report`` read records, so times and machines change no other output.
    ``earlier_seconds``: seconds of stopped runs whose work is kept. ``eased_by``: the keys of params.yaml that lower
    the stage's memory use. If the block fails, ``layout.failure`` says why until the stage runs again; if it succeeds,
    the files of unfinished runs are removed.
    """

    def __init__(
        self,
        path: Path,
        device=None,
        threads: int | None = None,
        seeds: dict[str, int] | None = None,
        eased_by: Sequence[str] = (),
        obeys: Obeys | None = None,
    ):
        self.path = path
        self.device = device
        self.threads = threads
        self.seeds = seeds or {}
        self.obeys = obeys
        self.clock = Clock(device)
        self.measured = {}
        self.earlier_seconds = 0.0
        self._eased_by = eased_by

    def __enter__(self):
        self._turn = _take_turn(self.path.parent)
        layout.failure(self.path).unlink(missing_ok=True)
        self._started = datetime.now(UTC)
        self._start = time.perf_counter()
        if error := self._edited_before():
            os.close(self._turn)
            self._note(error)
            raise error
        return self

    def __exit__(self, kind, error, trace):
        spoiled = None if kind else self._spoiled()
        if error := error or spoiled:
            _keep_turn_of_dvc()
            os.close(self._turn)
            if isinstance(error, Exception):  # not if a user or a cluster ended the stage
                self._note(error)
            if spoiled:
                raise spoiled
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
                "gpu": gpus.held(),
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
        _keep_turn_of_dvc()
        os.close(self._turn)

    def _edited_before(self) -> StageError | None:
        """An error if code or params.yaml was edited after the launcher recorded it and before the stage read it."""
        if self.obeys is None or AS_STARTED not in os.environ:
            return None
        edited = _changed_since(int(os.environ[AS_STARTED]), [layout.ROOT / layout.PARAMS, *self.obeys.code])
        return StageError(f"{edited[0]} was edited while this stage started; run it again") if edited else None

    def _spoiled(self) -> StageError | None:
        """DVC hashes code and parameters after the stage ends; an edit made meanwhile would be recorded as what ran."""
        if self.obeys is None or "DVC_STAGE" not in os.environ or AS_STARTED in os.environ:
            return None
        edited = params.edited(self.obeys.keys, self.obeys.params) + _changed_since(STARTED, self.obeys.code)
        if not edited:
            return None
        why = "was edited while this stage ran, and DVC would record the edit as what the stage ran with"
        return StageError(f"{edited[0]} {why}; run it again (`snakemake` allows such edits)")

    def _note(self, error: Exception) -> None:
        """Write why the block failed to a file and, if the user can fix it, raise that as the error."""
        gpu = self.device is not None and self.device.type == "cuda"
        fewer = "lower device.jobs_per_gpu" if gpu else "run fewer stages at a time (snakemake --cores)"
        relief = " or ".join([*(f"lower {key}" for key in self._eased_by), fewer])
        label = " ".join(self.path.parent.relative_to(layout.RECORDS).parts)
        explanation = explained(error, label=label, relief=relief)
        note = explanation or StageError(f"{first_line(error)}; the stage's output has the traceback")
        with suppress(OSError, StageError):  # the disk may be full
            content = {"kind": note.kind, "message": str(note), "density": note.density}
            write_json(layout.failure(self.path), content)
        if explanation not in (None, error):
            raise explanation from error

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
