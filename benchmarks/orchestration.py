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

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Bench, main
from prunus.study import layout
from trivial import METHODS, SCRIPTS, Project

STUDIES = ((1, METHODS, 8), (11, METHODS, 4))  # seeds, methods, iterations: some 50 and 300 stages
QUICK = ((1, ["sap"], 1),)
LARGEST_COLD = 100  # stages up to which DVC alone makes the whole study
TO_FIRST_WORK = """
import importlib, sys
sys.path.insert(0, "stages")
stage = importlib.import_module("{script}")
params = stage.for_stage([key.format(method="sap") for key in stage.PARAMS])
if hasattr(stage, "open_device"):
    stage.open_device(params.device.accelerator, params.device.threads)
"""


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
        count = len(re.findall(ran, project.output))
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
        code = TO_FIRST_WORK.format(script=script)
        variants[script] = process(code)
    bench.compare(case, variants, runs, warmup=0 if bench.quick else 1)
    for row in bench.rows[1 : len(variants)]:
        bench.judge(case, f"{row.variant}, against the promise", row.median, "s", at_most=3.0)


def run(bench: Bench) -> None:
    start_up(bench)
    for seeds, methods, iterations in QUICK if bench.quick else STUDIES:
        with tempfile.TemporaryDirectory() as folder:
            project = Project(Path(folder) / "project", seeds, methods, iterations)
            stages = len(project.commands)
            (whole if stages <= LARGEST_COLD else sample)(bench, f"{stages} stages", project)


if __name__ == "__main__":
    main("orchestration", run, __doc__.splitlines()[0])
