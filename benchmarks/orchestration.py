"""What running a study costs besides its stages: DVC alone and Snakemake over DVC, against the bare scripts.

The graph is dvc.yaml, the study params.yaml's own with more seeds and iterations, the runner the Snakefile with its
profile, all copied to a temporary folder; the stage scripts are replaced by one that writes its outputs at once, so
what is left is the orchestration. What a runner adds to a stage is (its time - the bare scripts one after the other) /
stages, in wall time: on more cores Snakemake adds less, and may even win. At 300 stages DVC alone would take half an
hour, because in every stage it reads and writes all of dvc.lock; there some stages run again in a finished study, and
what is subtracted is the run in which nothing was to be done. Start-up is from the start of a stage's process to its
parameters read and its device opened; a process that imports torch, and nothing else, is the floor.

python benchmarks/orchestration.py
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from harness import Bench, main
from prunus import layout

METHODS = ["one_shot", "lth", "sap", "incop_if", "incop_gf"]
STUDIES = {50: (1, METHODS, 8), 300: (11, METHODS, 4)}  # stages: seeds, methods, iterations
QUICK = {7: (1, ["sap"], 1)}
LARGEST_COLD = 100  # stages up to which DVC alone makes the whole study
COPIED = ("Snakefile", "dvc.yaml", "stages", "profiles", "data/images", ".dvc/config", ".dvcignore", ".gitignore")
SCRIPTS = ("prepare_data", "pretrain", "reference_flow", "prune_iteration", "evaluate", "compare", "report")

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

TO_FIRST_WORK = """
import importlib, sys
sys.path.insert(0, "stages")
stage = importlib.import_module("{script}")
params = stage.for_stage([key.format(method="sap") for key in stage.PARAMS], {methods})
if hasattr(stage, "open_device"):
    stage.open_device(params.device.accelerator, params.device.threads)
"""


class Project:
    """A scratch copy of the project whose stages do nothing but write their outputs."""

    def __init__(self, root: Path, seeds: int, methods: list[str], iterations: int):
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
        after = ["../dense", *(f"iteration-{t}" for t in range(1, iterations))]
        chain = [{"t": t, "after": before} for t, before in enumerate(after, start=1)]
        self.params["study"] |= {"seeds": list(range(seeds)), "methods": methods, "iterations": chain}
        self.write_params()
        for script in SCRIPTS:
            (root / "stages" / f"{script}.py").write_text(TRIVIAL)
        config = (root / ".dvc/config").read_text()
        self.run("git", "init", "--quiet")
        self.run("dvc", "init", "--quiet", "--force")
        (root / ".dvc/config").write_text(config)
        stages = [stage for stage in Repo(str(root)).index.stages if stage.cmd]
        outputs = {stage.cmd: [os.path.relpath(out.fs_path, root) for out in stage.outs] for stage in stages}
        self.commands = list(outputs)  # dvc.yaml lists stages after those they depend on
        contents = {command.removeprefix("python "): names for command, names in outputs.items()}
        (root / "outputs.json").write_text(json.dumps(contents))
        self.run("git", "add", "--all")
        self.run("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "-m", "study")

    def write_params(self) -> None:
        (self.root / layout.PARAMS).write_text(yaml.safe_dump(self.params, sort_keys=False))

    def run(self, *command: str) -> float:
        """Seconds that ``command`` took; its output is kept in ``said``."""
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        start = time.perf_counter()
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        self.said = done.stdout + done.stderr
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended {done.returncode}\n{self.said}")
        return seconds

    def bare(self) -> float:
        return sum(self.run(*command.split()) for command in self.commands)

    def empty(self) -> None:
        """As before the first run: no outputs, no cache, no memory of either runner."""
        for name in ("runs", "logs", "reports", "data/prepared", ".snakemake", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        (self.root / "dvc.lock").unlink(missing_ok=True)


def no_ops(bench: Bench, case: str, project: Project, runner: str) -> float:
    """Median seconds of ``runner`` when nothing is to be done."""
    runs = [project.run(runner, "repro") if runner == "dvc" else project.run(runner) for _ in range(3)]
    return bench.record(case, f"nothing to do: {'dvc repro' if runner == 'dvc' else runner}", runs).median


def whole(bench: Bench, case: str, project: Project) -> None:
    """Every runner makes the whole study."""
    stages = len(project.commands)
    bare = project.bare()
    bench.record(case, "bare scripts, per stage", [bare / stages])
    for variant, command in {
        "snakemake --cores 1": ("snakemake", "--cores", "1"),
        "snakemake on all cores": ("snakemake",),
        "dvc repro": ("dvc", "repro"),
    }.items():
        project.empty()
        bench.record(case, f"added per stage by {variant}", [(project.run(*command) - bare) / stages])
        no_ops(bench, case, project, command[0])


def sample(bench: Bench, case: str, project: Project) -> None:
    """Snakemake makes the whole study; then one method's settings change and a part runs again."""
    stages = len(project.commands)
    bare = project.bare()
    bench.record(case, "bare scripts, per stage", [bare / stages])
    project.empty()
    bench.record(case, "added per stage by snakemake on all cores", [(project.run("snakemake") - bare) / stages])
    for runner in ("snakemake", "dvc"):
        no_ops(bench, case, project, runner)

    def again(variant: str, q: float, *command: str, ran: str) -> None:
        idle = project.run(*command)
        project.params["methods"]["sap"]["q"] = q
        project.write_params()
        seconds = project.run(*command)
        count = len(re.findall(ran, project.said))
        bench.record(
            case, f"added per stage by {variant}, {count} again", [(seconds - idle - count * bare / stages) / count]
        )

    again("snakemake --cores 1", 1.1, "snakemake", "--cores", "1", ran="Finished jobid")
    chains = ["evaluate@0-sap", "evaluate@1-sap"]
    again("dvc repro", 1.2, "dvc", "repro", *chains, ran="Running stage")


def start_up(bench: Bench) -> None:
    """From the start of each stage's process to its first work."""

    def process(code: str):
        return lambda: subprocess.run([sys.executable, "-c", code], cwd=layout.ROOT, check=True)

    case, runs = "start-up", 1 if bench.quick else 5
    variants = {"import torch": process("import torch")}
    for script in SCRIPTS[3:4] if bench.quick else SCRIPTS:
        code = TO_FIRST_WORK.format(script=script, methods=script not in ("compare", "report"))
        variants[script] = process(code)
    bench.compare(case, variants, runs, warmup=0 if bench.quick else 1)
    for row in bench.rows[1 : len(variants)]:
        bench.judge(case, f"{row.variant}, against the promise", row.median, "s", at_most=3.0)


def run(bench: Bench) -> None:
    start_up(bench)
    for stages, (seeds, methods, iterations) in (QUICK if bench.quick else STUDIES).items():
        with tempfile.TemporaryDirectory() as folder:
            project = Project(Path(folder) / "project", seeds, methods, iterations)
            if len(project.commands) != stages:
                raise RuntimeError(f"{len(project.commands)} stages, not {stages}")
            (whole if stages <= LARGEST_COLD else sample)(bench, f"{stages} stages", project)


if __name__ == "__main__":
    main("orchestration", run, __doc__.splitlines()[0])
