"""Scratch copies of the project with a study of seconds, driven through the real dvc and snakemake commands."""

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from dvc.utils.serialize import modify_yaml

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("Snakefile", "dvc.yaml", "params.yaml", "stages", "profiles", "tools", "data/images", "reports/captions")
COPIED += (".dvcignore", ".gitignore")

SMALL = {
    "study.network": "mlp",
    "study.seeds": [0],
    "study.methods": ["sap", "incop_if"],
    "study.iterations": [{"t": 1, "after": "../dense"}, {"t": 2, "after": "iteration-1"}],
    "training.epochs": 2,
    "flow.samples": 64,
    "device.accelerator": "cpu",
    "methods.sap.epochs": 1,
    "methods.incop_if.max_epochs": 2,
}


# In place of the report's script, which takes longer than all others of the study together.
REPORT = '''"""Stands for the report: its outputs, at once, from the numbers that it would show."""
import prunus.run.warm

# isort: split
import json
from pathlib import Path

import yaml


def main():
    metrics = json.loads(Path("reports/metrics.json").read_text())
    numbers = str({method: own.get("total_epochs") for method, own in metrics.items()})  # no times, like the figures
    for name in yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["report"]["outs"]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name + numbers)


if __name__ == "__main__":
    main()
'''


# `dvc` or `snakemake` as a script of a project of its own, whose warm process has imported both.
COMMAND = """import prunus.run.warm

import sys

sys.path[:] = [path for path in sys.path if not path.startswith({folder!r})]
for name in [name for name in sys.modules if name.split(".")[0] == "prunus"]:
    del sys.modules[name]
sys.excepthook, sys.argv[0] = sys.__excepthook__, {command!r}
from {module} import main

sys.exit(main())
"""


@cache
def commands() -> dict[str, str]:
    """Scripts for `dvc` and `snakemake` that start in a third of their time: most of what these tests wait for."""
    folder = Path(tempfile.mkdtemp(prefix="commands-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("prunus/__init__.py", "prunus/run/__init__.py", "prunus/run/warm.py"):
        (folder / "tools" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / "stages" / name, folder / "tools" / name)
    # The package lies in tools, where its parents' parent is the project's folder just as from stages.
    server = (ROOT / "tools/warm.py").read_text()
    (folder / "tools/warm.py").write_text(server.replace('FIRST = """', 'FIRST = """ snakemake.cli snakemake.workflow'))
    scripts = {}
    for command, module in (("dvc", "dvc.cli"), ("snakemake", "snakemake.cli")):
        script = folder / "tools" / f"run_{command}.py"
        name = str(Path(sys.executable).with_name(command))
        script.write_text(COMMAND.format(folder=str(folder), command=name, module=module))
        scripts[command] = str(script)
    return scripts


def environment() -> dict[str, str]:
    """That of the project's commands: this interpreter's tools first, and compiled modules are kept."""
    tools = str(Path(sys.executable).parent)
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return inherited | {"PATH": tools + os.pathsep + os.environ["PATH"], "DVC_NO_ANALYTICS": "1"}


class Project:
    """A scratch project: ``root``, its commands, and which stages' scripts they ran."""

    def __init__(self, root: Path):
        self.root = root

    def run(self, *command: str, status: int | None = 0) -> str:
        """Output of ``command``; its exit status must be ``status`` (None: any)."""
        if script := commands().get(command[0]):
            command = (sys.executable, script, *command[1:])
        # A file, not a pipe: DVC's queue workers inherit it and may outlive the command by long.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(command, cwd=self.root, env=environment(), stdout=output, stderr=subprocess.STDOUT)
            output.seek(0)
            text = output.read()
        logs = "".join(path.read_text()[-2000:] for path in self.root.glob("logs/*.log")) if done.returncode else ""
        assert status is None or done.returncode == status, f"{command} ended {done.returncode}\n{text}\n{logs}"
        return text

    def git(self, *arguments: str) -> str:
        return self.run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments)

    def edit(self, **changes) -> None:
        """Write values into params.yaml, as DVC does; the keys' dots are spelled as double underscores."""
        with modify_yaml(self.root / "params.yaml") as content:
            for key, value in changes.items():
                *parents, last = key.replace("__", ".").split(".")
                block = content
                for name in parents:
                    block = block[name]
                block[last] = value

    def remove(self, block: str, *keys: str) -> None:
        """Take the keys out of a block of params.yaml."""
        with modify_yaml(self.root / "params.yaml") as content:
            for name in block.split("."):
                content = content[name]
            for key in keys:
                del content[key]

    def repro(self) -> set[str]:
        """``dvc repro``; the stages whose script ran."""
        return stages_run(self.run("dvc", "repro"))

    def snakemake(self, *options: str, status: int | None = 0) -> set[str]:
        """``snakemake --cores 2``; the stages whose script ran."""
        shutil.rmtree(self.root / "logs", ignore_errors=True)
        self.run("snakemake", "--cores", "2", *options, status=status)
        return stages_run("".join(path.read_text() for path in self.root.glob("logs/*.log")))

    def copy(self, to: Path) -> "Project":
        shutil.copytree(self.root, to, symlinks=True)
        return Project(to)


def stages_run(output: str) -> set[str]:
    """Without check_params, which computes nothing and runs after every edit of params.yaml."""
    return set(re.findall(r"Running stage '(.+?)'", output)) - {"check_params"}


def chain(method: str, iterations=(0, 1), seed: int = 0) -> set[str]:
    """Addresses of a chain's iterations (by position) and of its evaluation."""
    pruning = {f"prune_iteration@{seed}-{method}-iteration{position}" for position in iterations}
    return pruning | {f"evaluate@{seed}-{method}"}


def whole_chain(method: str, iterations=(0, 1)) -> set[str]:
    """What runs when the method's block or file is edited: what the chain is held against, and ``chain``."""
    return {f"chain_reference@0-{method}"} | chain(method, iterations)


def make_project(root: Path, report: bool = False, **changes) -> Project:
    """A committed project in ``root`` with a small study in which nothing has run yet; ``changes`` as in ``edit``.

    ``report``: the report is the real one.
    """
    for path in COPIED:
        source, target = ROOT / path, root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    project = Project(root)
    if not report:
        (root / "stages/report.py").write_text(REPORT)
    project.git("init", "-q")
    project.run("dvc", "init", "-q")
    shutil.copytree(ROOT / ".dvc/plots", root / ".dvc/plots")
    project.edit(**{key.replace(".", "__"): value for key, value in SMALL.items()} | changes)
    project.git("add", "-A")
    project.git("commit", "-qm", "the study")
    return project
