"""The commands that read params.yaml, on a project where a training could start, and their answer to a bad file."""

import os
import subprocess
import sys
from pathlib import Path

from project import make_project
from prunus.study import checks, layout
from prunus.study.mistakes import ParamsError
from prunus.study.reading import read_file

COMMANDS = {
    "stage script": [sys.executable, "stages/pretrain.py", "--seed", "0"],
    "dvc repro": ["dvc", "repro"],
    "snakemake": ["snakemake", "--cores", "1"],
}


def run(root: Path, command: list[str]) -> tuple[int, str]:
    """Exit status and output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, errors="replace")
    return done.returncode, done.stdout + done.stderr


def project(root: Path) -> Path:
    """The project at ``root``, its data prepared: the next thing to run is a training."""
    make_project(root).run("dvc", "repro", "-q", "prepare_data")
    return root


def trained(root: Path) -> list[Path]:
    """What any stage after check_params and the data's has left behind."""
    files = {path for path in (root / "runs").rglob("*") if path.is_file() and "data" not in path.parts}
    return sorted(files - {root / layout.CHECKED})


def mistake(path: Path, name: str) -> ParamsError | None:
    """What a command has to say of the params.yaml at ``path``: pretrain runs no method and judges no method's block,
    the others judge those of the study's methods."""
    try:
        content = read_file(path)
        used = checks.used_methods(checks.of_content(content))
        checks.validate(content, [] if name == "stage script" else used)
    except ParamsError as error:
        return error
    return None


def refused(root: Path, name: str, content: bytes, error: ParamsError) -> str:
    """Who refused a params.yaml that gets ``error``: Prunus, by its first line, or DVC, which reads the file before it.

    AssertionError where a command does not fail, shows a traceback, leaves out the line or starts a training.
    """
    (root / "params.yaml").write_bytes(content)
    status, output = run(root, COMMANDS[name])
    assert status, f"{name} went on with a params.yaml that should get: {error}"
    assert "Traceback" not in output, output
    assert trained(root) == [], f"{name} started a training"
    line = str(error).splitlines()[0]
    if line in output:
        return "Prunus"
    assert name == "dvc repro" and "ERROR: " in output, f"{name} does not say {line!r}:\n{output}"
    return "DVC"
