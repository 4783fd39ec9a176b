"""The package of the stage scripts, which import it before anything slow.

The two variables must be set before torch loads its libraries. OpenMP threads that spin while another process wants
their core make training ten times slower; cuBLAS is deterministic only with a fixed workspace.

From this import on Ctrl-C prints one line, also while torch is being imported.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(sys.argv[0] if sys.argv else "")
STARTED = time.time_ns()  # before any other file is read: a file changed later was edited while the stage ran
INTERRUPTED = 130  # as in shells: 128 plus the number of SIGINT


def _one_line(kind, error, trace):
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print(f"{SCRIPT.name}: stopped by Ctrl-C; the same command goes on", file=sys.stderr)
    raise SystemExit(INTERRUPTED)


if SCRIPT.resolve().parent in (ROOT / "stages", ROOT / "tools"):
    sys.excepthook = _one_line
