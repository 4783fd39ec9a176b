"""What running a study costs besides its stages: DVC alone and Snakemake over DVC, against the bare scripts.

The graph is dvc.yaml, the study params.yaml's own with more seeds and iterations, the runner the Snakefile with its
profile, all copied to a temporary folder. The stage scripts are replaced by ones that import what the real ones do and
write their outputs at once, so what is left is what a stage costs beyond its computing. It is given in processor
seconds of all processes, the warm one with its copies included, with warm stages (tools/warm.py) and cold ones.

At 300 stages DVC alone would take half an hour, because in every stage it reads and writes all of dvc.lock: there the
scripts import nothing, some stages run again in a finished study, and what is subtracted is the bare scripts and the
run in which nothing was to be done, in wall time. What a call costs by itself is in processor seconds, too: until its
first stage's process starts, with nothing to do, and to bring back what DVC's cache holds after outputs are gone
(dvc.lock names them) or a parameter is put back (the run cache does). Start-up is from the start
of a stage's process to its parameters read and its device opened; a process that imports torch, and nothing else, is
the floor.

python benchmarks/orchestration.py
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Bench, main
from prunus.study import layout
from trivial import METHODS, SCRIPTS, Project

SHIPPED, MANY_SEEDS = (2, METHODS, 5), 11  # seeds, methods, iterations: params.yaml as it is, 80 stages
STUDIES = (SHIPPED, (MANY_SEEDS, METHODS, 4))  # the second: more than 300 stages
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
    """Both runners make the whole study, its stages forked from a warm process and started by themselves."""
    stages = len(project.commands)
    for runner, most in (("snakemake", 0.5), ("dvc repro", 1.0)):
        for start, switch in (("warm", "1"), ("cold", "0")):
            project.empty()
            wall = project.run(*runner.split(), PRUNUS_WARM=switch) / stages
            bench.record(case, f"{runner}, {start} stages: wall time a stage", [wall])
            own = bench.record(case, f"{runner}, {start} stages: processor time a stage", [project.processor / stages])
            if start == "warm":
                bench.judge(case, f"{runner}, processor time a stage", own.median, "s", at_most=most)


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


def to_first_stage(project: Project) -> float:
    """Processor seconds of `snakemake` until the process of its first stage starts: Linux, to a hundredth."""
    log = project.root / "logs/check_params.log"
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(
        ["snakemake"],
        cwd=project.root,
        env=os.environ | {"PATH": tools},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not log.exists() and process.poll() is None:
            of_process = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        process.terminate()
    if not log.exists():
        raise RuntimeError("snakemake ended before its first stage")
    return sum(map(int, of_process[11:15])) / os.sysconf("SC_CLK_TCK")  # with children that have ended


def calls(bench: Bench, seeds: int, methods: list[str], iterations: int) -> None:
    """What calls of both runners cost in a study that is finished, or whose results DVC's cache holds."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder) / "project", seeds, methods, iterations)
        case, runs = f"{len(project.commands)} stages, processor time", 1 if bench.quick else 3
        first = []
        for _ in range(runs):
            project.empty()
            first.append(to_first_stage(project))
        bench.record(case, "snakemake, to its first stage", first)
        project.empty()
        project.run("snakemake")
        finished = project.params["training"]["epochs"]

        def parameter(epochs: int) -> None:
            project.params["training"]["epochs"] = epochs
            project.write_params()

        parameter(finished + 1)
        project.run("snakemake")
        other = (project.root / "dvc.lock").read_bytes()

        def gone() -> None:
            for name in ("runs", "reports", "data/prepared"):
                shutil.rmtree(project.root / name)

        def put_back() -> None:
            """As after the run with the other value, from which this one goes back."""
            parameter(finished + 1)
            (project.root / "dvc.lock").write_bytes(other)
            project.run("dvc", "checkout", "--force")
            parameter(finished)

        def measured(variant: str, before, *commands: str) -> None:
            seconds = []
            for _ in range(runs):
                before()
                taken = 0.0
                for command in commands:
                    project.run(*command.split())
                    taken += project.processor
                seconds.append(taken)
            bench.record(case, variant, seconds)

        measured("nothing to do: snakemake", lambda: None, "snakemake")
        measured("nothing to do: dvc repro", lambda: None, "dvc repro")
        measured("outputs gone: snakemake", gone, "snakemake")
        measured("outputs gone: dvc checkout", gone, "dvc checkout")
        measured("a parameter put back: snakemake", put_back, "snakemake")
        if not bench.quick and len(project.commands) <= LARGEST_COLD:
            measured("outputs gone: dvc repro", gone, "dvc repro")
            measured("outputs gone: dvc checkout, dvc repro", gone, "dvc checkout", "dvc repro")
            measured("a parameter put back: dvc repro", put_back, "dvc repro")


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
    for study in QUICK if bench.quick else (SHIPPED, STUDIES[1]):
        calls(bench, *study)
    for seeds, methods, iterations in QUICK if bench.quick else STUDIES:
        with tempfile.TemporaryDirectory() as folder:
            small = seeds < MANY_SEEDS
            project = Project(Path(folder) / "project", seeds, methods, iterations, imports=small)
            (whole if small else sample)(bench, f"{len(project.commands)} stages", project)


if __name__ == "__main__":
    main("orchestration", run, __doc__.splitlines()[0])
