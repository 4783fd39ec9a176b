"""Ctrl-C is one line and status 130, while a stage's script imports or works."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

STAGES = Path(__file__).resolve().parents[2] / "stages"
SCRIPTS = sorted(path.name for path in STAGES.glob("*.py"))

# A torch, pandas or pydantic whose import takes for ever, and says that it has begun.
SLOW = "import os, time\nopen(os.environ['BEGUN'], 'w').close()\ntime.sleep(60)\n"


def interrupted(script: Path, folder: Path, slow: str) -> subprocess.CompletedProcess:
    """``script`` after SIGINT while it imports ``slow``."""
    (folder / "modules").mkdir()
    (folder / "modules" / f"{slow}.py").write_text(SLOW)
    begun = folder / "begun"
    environment = os.environ | {"PYTHONPATH": str(folder / "modules"), "BEGUN": str(begun)}
    arguments = ["--seed", "0"] if '"--seed"' in script.read_text() else []
    # A job that a shell put into the background ignores SIGINT, and its children do as well.
    started = subprocess.Popen(
        [sys.executable, str(script), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for _ in range(600):
        if begun.exists() or started.poll() is not None:
            break
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    output, _ = started.communicate(timeout=60)
    return subprocess.CompletedProcess(script, started.returncode, output)


@pytest.mark.parametrize("script", SCRIPTS)
def test_while_a_stage_imports(script, tmp_path):
    text = (STAGES / script).read_text()
    slow = "torch" if "import torch" in text else "pandas" if "import pandas" in text else "pydantic"
    done = interrupted(STAGES / script, tmp_path, slow)
    assert done.stdout == f"{script}: stopped by Ctrl-C; the same command goes on\n"
    assert done.returncode == 130


def test_no_other_process_has_its_exceptions_hooked():
    code = "import sys, prunus; sys.exit(sys.excepthook is not sys.__excepthook__)"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(STAGES)})
    assert done.returncode == 0
