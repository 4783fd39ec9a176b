"""The device a stage computes on, its threads and its clock.

torch is imported only when a device is used, so that stages that only collect tables start quickly.
"""

import ctypes
import sys
import time
from contextlib import contextmanager

from prunus.run import gpus
from prunus.run.errors import StageError

# glibc's mallopt parameters (malloc.h) and the largest threshold that it takes for separately mapped blocks.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, up to a gigabyte, for the next step of a training.

    Otherwise it may give large blocks, the feature maps of every step, back to the system at once and get them again,
    page by page: for lenet5 at batch 64 up to 900 page faults a step. Nothing happens where the C library is another.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2**30)


def open_device(accelerator: str, threads: int):
    """Set torch up for reproducible results and return the ``torch.device`` to compute on.

    Arguments: ``accelerator`` auto, cpu or cuda; ``threads`` CPU threads of torch, whatever the launcher exported.
    Raises ``StageError`` if cuda is asked for and there is none.
    """
    import torch

    keep_freed_memory()
    torch.set_num_threads(threads)
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise StageError("device.accelerator: cuda is asked for and torch finds no GPU; allowed here: auto, cpu")
    # Not on a CPU: it is deterministic anyway, and the call imports torch's compiler (4 s).
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    return torch.device("cuda", gpus.take(torch.cuda.device_count()))


class Clock:
    """Seconds per activity. A GPU's queue is drained before and after, so that work counts for its own activity."""

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
