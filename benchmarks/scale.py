"""What a large study costs in DVC and Snakemake: one of up to 10,000 stages, and 10,000 as studies that share a cache.

The stages do nothing but write their outputs (trivial.py), so all that is measured is overhead. A large study in which
everything is done is made of one seed's: its outputs are copied and its entries in dvc.lock repeated for the other
seeds. Of 10,000 stages split into studies, two studies of each size run for real, each in a git worktree, with the
commands of docs/how-to/run-a-large-study.md. Wall times are of this machine with all its cores; "CPU" is the
processor's time of the same command, which other work on the machine changes little.

python benchmarks/scale.py
"""

import json
import os
import re
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from harness import Bench, main
from trivial import METHODS, Project

ITERATIONS = 4
PER_SEED, SHARED = 33, 4  # stages: of a seed with five methods and four iterations; of the study
ONE_STUDY = (4, 11, 36, 91, 303)  # seeds: 136, 367, 1,192, 3,007 and 10,003 stages
SPLIT = {1: 2, 4: 1, 11: 1}  # seeds of a study (37, 136 and 367 stages): how many of them are run
TOTAL = 10_000
MANY_OBJECTS = 50_000
LARGEST_REPEATED = 1_200  # stages up to which start-ups are repeated

LARGEST_IN_SNAKEMAKE = 91  # seeds

INDEX = """
import json, sys, time
from pathlib import Path
from dvc.repo import Repo
sys.path.insert(0, "{benchmarks}")
from harness import peak_bytes
seconds = []
def work():
    start = time.perf_counter()
    index = Repo().index
    seconds.append(time.perf_counter() - start)
    index.graph
    seconds.append(time.perf_counter() - start - seconds[0])
peak = peak_bytes(work)
print(json.dumps([*seconds, peak / 2**20]))
"""

ONLY_WRITES = '''"""In place of tools/one_stage.py: writes the stage's outputs, and DVC is not asked."""
import json
import sys
from pathlib import Path

for name in json.loads(Path("stages.json").read_text())[sys.argv[1]]:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
'''


def stages_of(seeds: int) -> int:
    return seeds * PER_SEED + SHARED


def timed(bench: Bench, case: str, what: str, project: Project, command: tuple, runs: int = 1) -> float:
    """Median wall time of ``command``; its CPU time is written down beside it."""
    wall, processor = [], []
    for _ in range(runs):
        wall.append(project.run(*command))
        processor.append(project.processor)
    bench.record(case, f"{what}, CPU", processor)
    return bench.record(case, what, wall).median


def one_seed(root: Path) -> Project:
    """A study of one seed in which everything is done."""
    project = Project(root, 1, METHODS, ITERATIONS)
    project.bare()
    project.run("dvc", "commit", "--force", "--quiet")
    return project


def of_seed(text: str, seed: int) -> str:
    """What stands in ``text`` of seed 0's stages, commands and paths, for another seed."""
    return re.sub(r"(@|--seed |seed)0\b", rf"\g<1>{seed}", text)


def grown(small: Project, root: Path, seeds: int) -> Project:
    """A copy of the study of one seed with more of them, in which everything is done."""
    shutil.copytree(small.root, root)
    project = small.at(root)
    project.params["study"]["seeds"] = list(range(seeds))
    project.write_params()
    outputs = json.loads((root / "outputs.json").read_text())
    lock = (root / "dvc.lock").read_text()
    entries = re.findall(r"^  \S+@0\b.*\n(?:    .*\n)*", lock, re.MULTILINE)
    of_seed_0 = [command for command in outputs if "--seed 0" in command]
    for seed in range(1, seeds):
        lock += "".join(of_seed(entry, seed) for entry in entries)
        for command in of_seed_0:
            outputs[of_seed(command, seed)] = [of_seed(name, seed) for name in outputs[command]]
        for folder in ("runs", "runs/evaluations", "runs/records"):
            shutil.copytree(root / folder / "seed0", root / folder / f"seed{seed}")
    (root / "dvc.lock").write_text(lock)
    (root / "outputs.json").write_text(json.dumps(outputs))
    return project


def start(bench: Bench, case: str, project: Project, repeated: bool) -> None:
    """Of DVC: its index and graph, of which `dvc repro` needs both. Of Snakemake: all it does before the first job."""
    code = INDEX.format(benchmarks=Path(__file__).parent)
    measured = []
    for _ in range(2 if repeated else 1):
        project.run(sys.executable, "-c", code)
        measured.append((*json.loads(project.output.splitlines()[-1]), project.processor))
    for what, unit, values in zip(
        ("DVC's index", "DVC's graph", "DVC's index and graph, memory", "DVC's index and graph, CPU of the process"),
        ("s", "s", "MiB", "s"),
        zip(*measured, strict=True),
        strict=True,
    ):
        bench.record(case, what, values, unit)
    shutil.rmtree(project.root / ".snakemake", ignore_errors=True)
    if project.params["study"]["seeds"][-1] < LARGEST_IN_SNAKEMAKE:
        timed(bench, case, "snakemake -n", project, ("snakemake", "-n", "--quiet", "all"), 2 if repeated else 1)


def one_stage(project: Project, address: str) -> tuple[str, ...]:
    """The command of a Snakemake job, as the Snakefile has it."""
    shell = re.search(r'"(python tools/one_stage\.py [^">]*)', (project.root / "Snakefile").read_text())[1]
    return tuple(re.sub(r"\{.*?\}", "0", shell.replace("{params.stage:q}", address)).split())


def stages_again(bench: Bench, case: str, project: Project, by_dvc: int, samples: int) -> None:
    """Some stages run again in the finished study, each by itself."""
    bench.record(case, "dvc.lock", [(project.root / "dvc.lock").stat().st_size / 2**20], "MiB")
    project.params["methods"]["sap"]["q"] = 1.2
    project.write_params()
    script = "stages/prune_iteration.py --seed 1 --method sap --iteration 1"
    bare = statistics.median(project.run("python", *script.split()) for _ in range(3))
    first = 1
    for what, count, command in (
        ("a job of Snakemake's", samples, lambda address: one_stage(project, address)),
        ("dvc repro --single-item", by_dvc, lambda address: ("dvc", "repro", "--single-item", address)),
    ):
        wall, processor = [], []
        for seed in range(first, first + count):
            wall.append(project.run(*command(f"prune_iteration@{seed}-sap-iteration0")) - bare)
            if "Running stage" not in project.output:
                raise RuntimeError(f"nothing ran again:\n{project.output}")
            processor.append(project.processor)
        first += count
        if wall:
            bench.record(case, f"added to a stage by {what}", wall)
            bench.record(case, f"added to a stage by {what}, CPU", processor)


def snakemake_alone(bench: Bench, case: str, root: Path, seeds: int) -> None:
    """Snakemake runs the study and its jobs only write their outputs: its scheduler, processes, checksums, metadata."""
    from dvc.repo import Repo

    project = Project(root, seeds, METHODS, ITERATIONS)
    stages = {
        stage.addressing: [os.path.relpath(out.fs_path, root) for out in stage.outs]
        for stage in Repo(str(root)).index.stages
    }
    (root / "stages.json").write_text(json.dumps(stages))
    (root / "tools/one_stage.py").write_text(ONLY_WRITES)
    seconds = project.run("snakemake")
    bench.record(case, "Snakemake without DVC, per stage", [seconds / len(stages)])
    bench.record(case, "Snakemake without DVC, per stage, CPU", [project.processor / len(stages)])


def split(bench: Bench, root: Path, seeds: int, studies: int, objects: int = 0) -> None:
    """Some studies of a project, each in a worktree, one after the other, with one cache.

    ``objects`` files, which no study knows, are in the cache beforehand.
    """
    stages = stages_of(seeds)
    case = f"{TOTAL:,} stages as {-(-TOTAL // stages)} studies of {stages}"
    if objects:
        case += f", {objects:,} other objects in the cache"
    large = Project(root / "whole", studies * seeds, METHODS, ITERATIONS)
    bare = statistics.median(large.run(*command.split()) for command in large.commands[:20])
    large.empty()
    for number in range(objects):
        path = root / f"shared/files/md5/{number % 256:02x}/{number:030x}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    wall, processor = [], []
    for study in range(studies):
        folder = root / f"study-{study}"
        setting_up = large.run("git", "worktree", "add", "--quiet", "--detach", str(folder))
        project = large.at(folder)
        project.params["study"]["seeds"] = list(range(study * seeds, (study + 1) * seeds))
        project.write_params()
        setting_up += project.run("dvc", "cache", "dir", "--local", str(root / "shared"))
        wall.append((setting_up + project.run("snakemake")) / stages - bare)
        processor.append(project.processor / stages)
    bench.record(case, "added per stage, CPU", processor)
    added = bench.record(case, "added per stage", wall).median
    bench.judge(case, "added per stage, against the promise", added, "s", at_most=1.0)
    bench.judge(case, "added to all", added * TOTAL / 3600, "h")


def experiment(bench: Bench, case: str, project: Project) -> None:
    """A variant in a scratch copy: `dvc exp run` goes through the graph as `dvc repro` does."""
    project.run("git", "add", "--all")
    project.run("git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "commit", "--quiet", "-m", "done")
    timed(bench, case, "dvc exp run --temp, nothing to run", project, ("dvc", "exp", "run", "--temp"))
    idle = bench.rows[-1].median
    seconds = project.run("dvc", "exp", "run", "--temp", "-S", "methods.one_shot.epochs=7")
    count = len(re.findall("Running stage", project.output))
    bench.record(case, f"added to a stage by dvc exp run --temp, {count} of them", [(seconds - idle) / count])


def run(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = one_seed(folder / "one")
        for seeds in (3,) if bench.quick else ONE_STUDY:
            stages = stages_of(seeds)
            case, project = f"one study of {stages:,} stages", grown(small, folder / "grown", seeds)
            start(bench, case, project, repeated=not bench.quick and stages <= LARGEST_REPEATED)
            by_dvc = {3: 1, 4: 1, 11: 2, 36: 1}.get(seeds, 0)
            stages_again(bench, case, project, by_dvc, samples=1 if bench.quick else 2 if seeds == 4 else 5)
            shutil.rmtree(folder / "grown")
        if bench.quick:
            return
        for seeds in (4, 11):
            snakemake_alone(bench, f"one study of {stages_of(seeds):,} stages", folder / f"alone-{seeds}", seeds)
        experiment(bench, f"one study of {stages_of(4)} stages", grown(small, folder / "experiment", 4))
        for seeds, studies in SPLIT.items():
            split(bench, folder / f"split-{seeds}", seeds, studies)
        split(bench, folder / "full", 1, 2, MANY_OBJECTS)


if __name__ == "__main__":
    main("scale", run, __doc__.splitlines()[0])
