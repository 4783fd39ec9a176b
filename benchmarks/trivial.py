"""A scratch copy of the project with a study of any size, whose stages do nothing but write their outputs.

What remains of a run is then the orchestration, with the real graph, Snakefile, profile and dependencies.
"""

import ast
import copy
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

from overlay import chain
from prunus.study import layout

METHODS = ["one_shot", "lth", "sap", "incop_if", "incop_gf"]
COPIED = (
    "Snakefile",
    "dvc.yaml",
    "stages",
    "profiles",
    "tools",
    "data/images",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
)
SCRIPTS = (
    "prepare_data",
    "pretrain",
    "reference_flow",
    "chain_reference",
    "prune_iteration",
    "evaluate_dense",
    "evaluate",
    "compare",
    "report",
)

TRIVIAL = '''"""Writes at once what the stage of this name would; other parameters make other contents."""
import json
import sys
from pathlib import Path

parameters = Path("params.yaml").read_text()
for name in json.loads(Path("outputs.json").read_text())[" ".join(sys.argv)]:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name + parameters)
'''


def imports_of(script: str) -> str:
    """The stage's script up to its last import, all of them as it has them."""
    text = (layout.ROOT / "stages" / f"{script}.py").read_text()
    last = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)][-1]
    return "".join(text.splitlines(keepends=True)[: last.end_lineno])


class Project:
    """The scratch copy at ``root``: a git repository with one commit, in which nothing has run."""

    def __init__(self, root: Path, seeds: int, methods: list[str], iterations: int, imports: bool = False):
        """``imports``: the stages import what the real ones do, and may be run by a warm process."""
        from dvc.repo import Repo

        self.root = root
        for name in COPIED:
            source, target = layout.ROOT / name, root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, target)
        self.params = yaml.safe_load((layout.ROOT / layout.PARAMS).read_text())
        self.params["device"]["accelerator"] = "cpu"
        self.params["study"] |= {"seeds": list(range(seeds)), "methods": methods, "iterations": chain(iterations)}
        self.write_params()
        for script in SCRIPTS:
            (root / "stages" / f"{script}.py").write_text((imports_of(script) if imports else "") + TRIVIAL)
        config = (root / ".dvc/config").read_text()
        self.run("git", "init", "--quiet")
        self.run("dvc", "init", "--quiet", "--force")
        (root / ".dvc/config").write_text(config)
        stages = [stage for stage in Repo(str(root)).index.stages if stage.cmd]
        outputs = {
            (stage.cmd if isinstance(stage.cmd, str) else stage.cmd[-1]): [
                os.path.relpath(out.fs_path, root) for out in stage.outs
            ]
            for stage in stages
        }
        self.commands = list(outputs)  # dvc.yaml lists stages after those they depend on
        contents = {command.removeprefix("python "): names for command, names in outputs.items()}
        (root / "outputs.json").write_text(json.dumps(contents))
        self.run("git", "add", "--all")
        self.run("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "-m", "study")

    def write_params(self) -> None:
        (self.root / layout.PARAMS).write_text(yaml.safe_dump(self.params, sort_keys=False))

    def run(self, *command: str, **variables: str) -> float:
        """Seconds that ``command`` took; ``output`` keeps what it printed, ``processor`` its seconds of processor
        time."""
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # users keep compiled modules
        environment |= {"TMPDIR": str(self.root.parent)} | variables  # its warm processes are its own
        before, start = self._processor_seconds(), time.perf_counter()
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        self.processor = self._processor_seconds() - before
        self.output = done.stdout + done.stderr
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended {done.returncode}\n{self.output}")
        return seconds

    def warm(self) -> list[psutil.Process]:
        """The project's warm processes."""
        found, variable = [], ("TMPDIR", str(self.root.parent))
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if (
                    any(part.endswith("tools/warm.py") for part in process.cmdline())
                    and variable in process.environ().items()
                ):
                    found.append(process)
        return found

    def _processor_seconds(self) -> float:
        """Of all child processes that have ended, and of the warm ones with their copies that have ended."""
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        return own.ru_utime + own.ru_stime + sum(sum(process.cpu_times()[:4]) for process in self.warm())

    def at(self, root: Path) -> "Project":
        """The same study in another folder, which must hold what this one does."""
        other = copy.copy(self)
        other.root, other.params = root, copy.deepcopy(self.params)
        return other

    def bare(self) -> float:
        return sum(self.run(*command.split()) for command in self.commands)

    def empty(self) -> None:
        """As before the first run: no outputs, no cache, no memory of either runner, no warm process."""
        for process in self.warm():
            process.kill()
        for name in ("runs", "logs", "reports", "data/prepared", ".snakemake", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        (self.root / "dvc.lock").unlink(missing_ok=True)
