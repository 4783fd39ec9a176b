"""What a stage says when it cannot go on: one line, with what to do. A mistake of ours keeps its traceback."""

import errno
import sys
from contextlib import contextmanager
from pathlib import Path

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


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def explained(error: Exception, path: Path | None = None, label: str = "", relief: str = "") -> StageError | None:
    """What a user can mend as a ``StageError`` of one line, None for all else.

    ``path``: the file that was being written; ``label``: the stage run; ``relief``: what lowers its need of memory.
    """
    if isinstance(error, StageError):
        return error
    if _is_out_of_memory(error):
        where, how = f"{label}: " if label else "", relief or "run fewer stages at a time"
        return StageError(f"{where}out of memory ({first_line(error)}); {how}", "out_of_memory")
    if not isinstance(error, OSError) or error.errno not in FULL + MENDABLE:
        return None
    name = path or error.filename or "a file"
    if error.errno in FULL:
        said = f"{name} could not be written ({error.strerror}); free some space, then run the same command again"
        return StageError(said, "disk_full")
    return StageError(f"{name}: {error.strerror}; mend that, then run the same command again")


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
