"""The message of a stage that cannot go on: one line that says what to do. A bug of Prunus keeps its traceback."""

import errno
import sys
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
FIXABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)


class StageError(Exception):
    """A stage cannot go on; the message is one line that says what is wrong and what to do.

    ``kind`` is its name in the failure note: diverged, not_finite, collapsed, out_of_memory, disk_full, or error for
    all others; ``density`` is that of masks that left a layer empty. Characters that would break or disguise the line,
    as in a file's name, are shown as escapes.
    """

    def __init__(self, message: str, kind: str = "error", density: float | None = None):
        super().__init__("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))
        self.kind, self.density = kind, density


@contextmanager
def labelled(label: str):
    """Put ``label``, which names the stage run, before the message of a ``StageError``."""
    try:
        yield
    except StageError as error:
        raise StageError(f"{label}: {error}", error.kind, error.density) from error


def _is_out_of_memory(error: Exception) -> bool:
    """Whether it comes from Python, numpy, torch on a CPU (a RuntimeError), torch on a GPU, or CUDA's libraries."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    phrases = ("DefaultCPUAllocator", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def explained(error: Exception, path: Path | None = None, label: str = "", relief: str = "") -> StageError | None:
    """An error that the user can fix as a ``StageError`` of one line; None for all others.

    ``path``: the file that was being written; ``label``: the stage run; ``relief``: what lowers its memory use.
    """
    if isinstance(error, StageError):
        return error
    if _is_out_of_memory(error):
        prefix = f"{label}: " if label else ""
        advice = relief or "run fewer stages at a time"
        return StageError(f"{prefix}out of memory ({first_line(error)}); {advice}", "out_of_memory")
    if not isinstance(error, OSError) or error.errno not in FULL + FIXABLE:
        return None
    name = path or error.filename or "a file"
    if error.errno in FULL:
        message = f"{name} could not be written ({error.strerror}); free some space and run the same command again"
        return StageError(message, "disk_full")
    return StageError(f"{name}: {error.strerror}; fix it and run the same command again")


@contextmanager
def one_line_errors():
    """Turn errors that the user can fix into one line on stderr and exit status 1; other errors keep the traceback."""
    try:
        yield
    except Exception as error:
        if (explanation := explained(error)) is None:
            raise
        print(f"{Path(sys.argv[0]).name}: {explanation}", file=sys.stderr)
        raise SystemExit(1) from None
