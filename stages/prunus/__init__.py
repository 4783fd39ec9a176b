"""The package of the stage scripts, which import it before anything slow.

The two variables must be set before torch loads its libraries. OpenMP threads that spin while another process wants
their core make training ten times slower; cuBLAS is deterministic only with a fixed workspace.

From this import on Ctrl-C prints one line, also while torch is being imported.
"""

import os
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

SCRIPT = os.path.realpath(sys.argv[0] if sys.argv else "")
ROOT = os.path.realpath(os.path.join(__file__, "../../.."))  # no pathlib: it is half of what a start costs
IS_SCRIPT = os.path.dirname(SCRIPT) in (
    f"{ROOT}/stages",
    f"{ROOT}/tools",
)  # this process is the project's, not a user's
STARTED = time.time_ns()  # before any other file is read: a file changed later was edited while the stage ran
INTERRUPTED = 130  # as in shells: 128 plus the number of SIGINT


def _one_line(kind, error, trace):
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print(f"{os.path.basename(SCRIPT)}: stopped by Ctrl-C; the same command goes on", file=sys.stderr)
    raise SystemExit(INTERRUPTED)


if IS_SCRIPT:
    sys.excepthook = _one_line
