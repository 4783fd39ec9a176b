"""What surrounds a stage's computation: seeds, threads and device, times and the run record, whole-or-nothing files,
and what is said when it fails.

torch is imported only where a device is used, so that stages which only gather tables start quickly.
"""

import csv
import errno
import fcntl
import hashlib
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from prunus import gpus, layout, params

RECORDED_PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scipy", "torch-pruning")
STAGES = Path(__file__).resolve().parents[1]
# Set where what started the stage puts down what it depends on before it runs: to the time at which that began, in ns.
AS_STARTED = "PRUNUS_AS_STARTED"
PATIENCE_WITH_DVC = 300  # seconds
FULL = (errno.ENOSPC, errno.EDQUOT)
MENDABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)


class StageError(Exception):
    """A stage cannot go on; the message is one line that says what is wrong and what to do.

    ``kind`` is what its failure note calls it: diverged, not_finite, collapsed, out_of_memory, disk_full, or error for
    all else; ``density`` is that of the masks that left a layer empty. What would break or disguise the line, in the
    name of a file for one, is shown as its escape.
    """

    def __init__(self, message: str, kind: str = "error", density: float | None = None):
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))
        self.kind, self.density = kind, density


@contextmanager
def labelled(label: str):
    """Put ``label``, the stage run, before the message of a ``StageError`` that does not know it."""
    try:
        yield
    except StageError as error:
        raise StageError(f"{label}: {error}", error.kind, error.density) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Of Python, numpy, torch on a CPU (a RuntimeError), torch on a GPU, or CUDA's libraries."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = ("DefaultCPUAllocator", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


def _first_line(error: Exception) -> str:
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def explained(error: Exception, path: Path | None = None, label: str = "", relief: str = "") -> StageError | None:
    """What a user can mend as a ``StageError`` of one line, None for all else.

    ``path``: the file that was being written; ``label``: the stage run; ``relief``: what lowers its need of memory.
    """
    if isinstance(error, StageError):
        return error
    if _is_out_of_memory(error):
        where, how = f"{label}: " if label else "", relief or "run fewer stages at a time"
        return StageError(f"{where}out of memory ({_first_line(error)}); {how}", "out_of_memory")
    if not isinstance(error, OSError) or error.errno not in FULL + MENDABLE:
        return None
    name = path or error.filename or "a file"
    if error.errno in FULL:
        said = f"{name} could not be written ({error.strerror}); free some space, then run the same command again"
        return StageError(said, "disk_full")
    return StageError(f"{name}: {error.strerror}; mend that, then run the same command again")


@contextmanager
def write_atomically(path: Path):
    """Yield a temporary name beside ``path``; the file appears under its real name only when the block succeeds.

    Raises ``StageError`` naming ``path`` where the disk is full or the folder may not be written to.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # safetensors writes files that only their owner can read
        os.replace(partial, path)
    except OSError as error:
        own = error.filename in (None, str(partial))
        if (said := explained(error, path if own else None)) is None:
            raise
        raise said from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _not_finite(content: object, key: str = "") -> Iterator[str]:
    """The dotted keys of the floats in ``content`` that are not finite, and what they are."""
    if isinstance(content, float) and not math.isfinite(content):
        yield f"{key} is {content}"
    if isinstance(content, dict | list | tuple):
        for name, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _not_finite(value, f"{key}.{name}".removeprefix("."))


def _refuse_not_finite(path: Path, content: object) -> None:
    if found := next(_not_finite(content), None):
        raise StageError(f"{path} is not written: {found}, and no number that another stage could use", "not_finite")


def write_json(path: Path, content: object) -> None:
    """Raises ``StageError`` for a number that is not finite, which JSON has none of."""
    _refuse_not_finite(path, content)
    with write_atomically(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, rows: list[dict], columns: list[str] | None = None) -> None:
    """Write rows of equal keys; None becomes an empty field. ``columns`` are needed where there may be no row.

    Raises ``StageError`` for a number that is not finite. (The csv module: importing pandas takes a second.)
    """
    _refuse_not_finite(path, rows)
    with write_atomically(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _model(fields: dict[str, object], **settings) -> type[BaseModel]:
    """A model with ``fields`` by name and type, or fields of its own, all of them required and their numbers finite."""
    kinds = {name: _model(kind, **settings) if isinstance(kind, dict) else kind for name, kind in fields.items()}
    config = ConfigDict(allow_inf_nan=False, protected_namespaces=(), **settings)
    return create_model("Content", __config__=config, **{name: (kind, ...) for name, kind in kinds.items()})


def read_json(path: Path, made_by: str, keys: dict[str, object]) -> dict:
    """The content of a stage's JSON output. ``keys``: those that the caller reads, and the types of their values, for a
    block of keys theirs again. Numbers have to be finite.

    A missing or damaged file raises ``StageError`` naming ``made_by``, the command that makes it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `{made_by}` makes it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StageError(f"{path} is damaged (no JSON: {error}); delete it, `{made_by}` makes it again") from None
    try:
        _model(keys).model_validate(content, strict=True)
    except ValidationError as error:
        key, said = ".".join(map(str, error.errors()[0]["loc"])), error.errors()[0]["msg"]
        raise StageError(f"{path} is damaged ({key}: {said}); delete it, `{made_by}` makes it again") from None
    return content


def read_rows(path: Path, made_by: str, columns: dict[str, object] | None = None) -> list[dict[str, str]]:
    """The rows of a stage's CSV output, as text. ``columns``: those it has to have, no other, and their values' types
    (None is an empty field); None: whatever it has.

    A missing or damaged file raises ``StageError`` naming ``made_by``, the command that makes it.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
    except FileNotFoundError:
        raise StageError(f"{path} is missing; `{made_by}` makes it") from None
    except (OSError, ValueError, csv.Error) as error:
        raise StageError(f"{path} is damaged ({error}); delete it, `{made_by}` makes it again") from None
    if not rows or any(None in row or None in row.values() for row in rows):
        raise StageError(f"{path} is damaged (no rows of equal length); delete it, `{made_by}` makes it again")
    if columns is None:
        return rows
    model = _model(columns, extra="forbid")
    for number, row in enumerate(rows, 1):
        try:
            model.model_validate({name: value or None for name, value in row.items()})
        except ValidationError as error:
            column, said = error.errors()[0]["loc"][0], error.errors()[0]["msg"]
            why = f"row {number}, column {column}: {said}"
            raise StageError(f"{path} is damaged ({why}); delete it, `{made_by}` makes it again") from None
    return [{name: row[name] for name in columns} for row in rows]


@contextmanager
def one_line_errors():
    """Turn what a user can mend into one line on stderr and exit status 1; a mistake of ours keeps its traceback."""
    try:
        yield
    except Exception as error:
        if (said := explained(error)) is None:
            raise
        print(f"{Path(sys.argv[0]).name}: {said}", file=sys.stderr)
        raise SystemExit(1) from None


def derive_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive_seed(0, "sap", 3, "order")``; distinct purposes are independent."""
    name = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


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
    return torch.device("cuda", gpus.take(torch.cuda.device_count()))


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


def _age(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_mtime_ns


def _changed_since(moment: int, names: Iterable[str]) -> list[str]:
    """Those of the files that changed in any way after ``moment`` (ns)."""
    return [name for name in names if os.path.exists(name) and os.stat(name).st_ctime_ns > moment]


def _keep_turn_of_dvc() -> None:
    """Take DVC's lock of this project, if need be after a wait, until this process has ended.

    `dvc repro` lets it go while a stage's script runs, and waits 3 s at most when it takes it back. Another `dvc` that
    looks at all stages meanwhile takes longer, and would end the first one, which then has not recorded its stage.
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


def loaded_code() -> list[str]:
    """The files of the project's modules that this process has loaded."""
    names = {getattr(module, "__file__", None) for module in list(sys.modules.values())} - {None}
    return sorted(name for name in names if Path(name).is_relative_to(STAGES))


class Recorder:
    """Writes ``record.json`` when its block succeeds: git revision, versions, device, threads, seeds and seconds.

    ``measured``: what else a stage times, by name. Only ``compare`` and ``report`` read records, so what differs
    between equal runs changes nothing they compute. ``earlier_seconds``: those of runs that were stopped and whose work
    counts. ``eased_by``: the keys of params.yaml that lower the stage's need of memory. When the block fails,
    ``layout.failure`` says why until the stage is run again; when it succeeds, what unfinished runs left is removed.
    """

    def __init__(
        self,
        path: Path,
        device=None,
        threads: int | None = None,
        seeds: dict[str, int] | None = None,
        eased_by: Sequence[str] = (),
    ):
        self.path, self.device, self.threads, self.seeds = path, device, threads, seeds or {}
        self.clock, self.measured, self.earlier_seconds = Clock(device), {}, 0.0
        self._eased_by = eased_by

    def __enter__(self):
        self._turn, self._code = _take_turn(self.path.parent), {name: _age(Path(name)) for name in loaded_code()}
        layout.failure(self.path).unlink(missing_ok=True)
        self._started = datetime.now(UTC)
        self._start = time.perf_counter()
        if edited := self._edited_since_put_down([layout.ROOT / layout.PARAMS, *self._code]):
            os.close(self._turn)
            error = StageError(f"{edited} was edited while this stage started; run it again")
            self._note(error)
            raise error
        return self

    def __exit__(self, kind, error, trace):
        spoiled = None if kind else self._spoiled()
        if error := error or spoiled:
            _keep_turn_of_dvc()
            os.close(self._turn)
            if isinstance(error, Exception):  # not what a user or a cluster ends a stage with
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

    @staticmethod
    def _edited_since_put_down(names: Iterable[str | Path]) -> str | None:
        """The first file that was edited between being put down as what the stage runs with and being read."""
        if AS_STARTED not in os.environ:
            return None
        return next(iter(_changed_since(int(os.environ[AS_STARTED]), names)), None)

    def _spoiled(self) -> StageError | None:
        """Plain DVC takes what params.yaml and the code say when a stage has ended for what the stage ran with."""
        if late := self._edited_since_put_down(name for name in loaded_code() if name not in self._code):
            return StageError(f"{late} was edited before this stage read it; run it again")
        if "DVC_STAGE" not in os.environ or AS_STARTED in os.environ:
            return None
        edited = params.edited() + [name for name, age in self._code.items() if _age(Path(name)) != age]
        if not edited:
            return None
        why = "was edited while this stage ran, and DVC would take it for what the stage ran with"
        return StageError(f"{edited[0]} {why}; run it again (`snakemake` takes such edits)")

    def _note(self, error: Exception) -> None:
        """Say why the block failed, in a file and, where a user can mend it, as the error raised."""
        gpu = self.device is not None and self.device.type == "cuda"
        fewer = "lower device.jobs_per_gpu" if gpu else "run fewer stages at a time (snakemake --cores)"
        relief = " or ".join([*(f"lower {key}" for key in self._eased_by), fewer])
        said = explained(error, label=" ".join(self.path.parent.relative_to(layout.RECORDS).parts), relief=relief)
        note = said or StageError(f"{_first_line(error)}; the stage's output has the traceback")
        with suppress(OSError, StageError):  # the disk may be full
            content = {"kind": note.kind, "message": str(note), "density": note.density}
            write_json(layout.failure(self.path), content)
        if said not in (None, error):
            raise said from error

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
