# Runs the graph of dvc.yaml in parallel. There is no second copy of the graph here: one rule is made per DVC stage, and
# each rule asks DVC for its stage, so DVC's cache, its lock file and its idea of what is up to date stay the only ones.

import fcntl
import json
import os
import re
import sqlite3
import subprocess
import sys
from functools import cache, reduce
from pathlib import Path

# Checking the methods' blocks imports torch, which takes two seconds; meanwhile DVC's index is read below. A cluster's
# job reads this file once more on its node, where all has been checked and written: MAIN is the process that was called.
MAIN = workflow.is_main_process
CHECK = "import sys; sys.path.insert(0, 'stages'); from prunus.params import for_stage; for_stage([])"
checking = subprocess.Popen([sys.executable, "-c", CHECK if MAIN else ""])

from dvc.dependency.param import read_param_file
from dvc.dvcfile import Lockfile
from dvc.repo import Repo
from dvc.stage import PipelineStage

sys.path[:0] = ["stages", "profiles", "tools"]
import check_checkout
from prunus import gpus
from prunus import params as study_params
from remaining import Remaining
from verify import damaged_outputs, lock_trouble, unreadable_records

if MAIN:
    check_checkout.end_where_useless()

COMPUTING = {"pretrain", "reference_flow", "prune_iteration", "prune_at_ratio", "evaluate", "evaluate_at_ratio"}
COMPUTING |= {"measure_information", "transfer"}


def refuse_mistakes():
    """End here when params.yaml has mistakes, before any rule exists; Snakemake would bury the lines in a traceback."""
    if checking.wait():
        os._exit(2)


try:
    settings = study_params.read(methods=False)
except study_params.ParamsError:
    refuse_mistakes()


@cache
def plain_files(path):
    """The files to watch for a dependency that no stage makes."""
    path = Path(path)
    if not path.is_dir():
        return [str(path)]
    return sorted(str(file) for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])

GPU_SLOTS = 0 if settings.device.accelerator == "cpu" else len(gpus.visible()) * settings.device.jobs_per_gpu
GPUS = min(GPU_SLOTS, 1)  # of a stage that computes
on_a_cluster = workflow.resource_settings._parsed_default_resources.get("gpu").value  # profiles/slurm
if on_a_cluster is not None:  # whatever this machine has
    GPUS = on_a_cluster if settings.device.accelerator != "cpu" else 0
elif GPU_SLOTS and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", GPU_SLOTS)

OBEYED = Path(".snakemake/obeyed")
if OBEYED.is_dir():
    Lockfile.load = lambda lockfile: {}  # dvc.yaml has the whole graph, and reading dvc.lock takes DVC seconds
try:
    repo = Repo()
except sqlite3.DatabaseError as error:
    print(f"DVC's database of files: {error}; `python profiles/verify.py`, then the same command again", file=sys.stderr)
    os._exit(1)
index = repo.index
graph = index.graph
stages = {stage.addressing: stage for stage in index.stages if isinstance(stage, PipelineStage)}
made = {out.fs_path for stage in stages.values() for out in stage.outs}
folders_of_made = {str(parent) for path in made for parent in Path(path).parents}
refuse_mistakes()


def alone():
    """Whether no other Snakemake runs this study. A lock of the system's, unlike Snakemake's own (`nolock` in the
    profile), is gone with the process that holds it, however that ends."""
    global running
    os.makedirs(".snakemake", exist_ok=True)
    running = open(".snakemake/running", "w")
    try:
        fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


ALONE = not MAIN or alone()
if MAIN and ALONE:
    if trouble := lock_trouble(repo, made):
        print(trouble[0], file=sys.stderr)
        if trouble[1]:
            os._exit(1)
    if not Path(repo.cache.local.path).exists() and any(map(os.path.exists, made)):
        print("DVC's cache is gone; `dvc repro` fills it again from the outputs", file=sys.stderr)
    for path in unreadable_records(Path(".snakemake/metadata")):
        print(f"{path} is damaged: removed, it only says how an output was made", file=sys.stderr)
        path.unlink()
    # Snakemake asks whether an output is there and how old it is, not what is in it.
    for path, stage in damaged_outputs(repo):
        print(f"{path} is not what {stage} made: removed, to be brought back", file=sys.stderr)
        os.unlink(path)


def at_once():
    """How many stages run at a time."""
    if not workflow.local_exec:
        return workflow.nodes
    by_cores = workflow.cores // settings.device.threads
    return min(by_cores, GPU_SLOTS) if GPU_SLOTS else by_cores


if MAIN:
    before = {name: [stage.addressing for stage in graph.successors(stages[name])] for name in stages}
    logger.addHandler(Remaining(before, at_once, logger.info))


def relative(path):
    return os.path.relpath(path)


def inputs(stage):
    """Outputs of the stages before this one in DVC's graph, and the plain files it depends on."""
    before = [relative(out.fs_path) for earlier in graph.successors(stage) for out in earlier.outs]
    plain = [
        file
        for dep in stage.deps
        if type(dep).__name__ == "Dependency" and dep.fs_path not in made and dep.fs_path not in folders_of_made
        for file in plain_files(relative(dep.fs_path))
    ]
    return sorted(set(before + plain))


CONTENT = read_param_file(repo.fs, "params.yaml")  # once, as DVC reads it


def values(stage):
    """What the stage's declared keys of params.yaml say, as DVC reads them."""
    keys = [key for dep in stage.params for key in dep.params]
    return {key: reduce(lambda block, name: block[name], key.split("."), CONTENT) for key in keys}


def obeyed(stage):
    """The file of the stage's parameters. Of outputs that DVC alone made Snakemake knows no `params`, but a file's age.

    A new file is as old as can be if DVC knows that the stage's outputs were made with these parameters.
    """
    path, content = OBEYED / f"{stage.addressing}.json", json.dumps(values(stage), sort_keys=True)
    if MAIN and (not path.exists() or path.read_text() != content):
        made_so = not path.exists() and not any(dep.status() for dep in stage.params)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        if made_so:
            os.utime(path, (0, 0))
    return str(path)


def reported(out):
    """The output, which ``snakemake --report`` shows where reports/captions has a caption for it."""
    path = relative(out.fs_path)
    caption = Path("reports/captions", f"{Path(path).stem}.rst").resolve()
    if not path.startswith("reports/") or not caption.exists():
        return path
    category = {".csv": "Tables", ".png": "Figures"}.get(Path(path).suffix, "Report")
    labels = {"what": Path(path).stem.replace("_", " ")}
    return report(path, caption=str(caption), category=category, labels=labels)


report: "reports/captions/workflow.rst"


onstart:
    if not ALONE:
        print("another snakemake is running this study; wait until it has ended, or stop it", file=sys.stderr)
        os._exit(1)
    # The limit on job starts (100 a second) re-runs the scheduler every second once more for each job that has ended:
    # at 300 stages that takes a core. A cluster keeps it.
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


onerror:
    # Not after Ctrl-C, which leaves jobs. On a cluster evaluations are for its nodes, so there the command is named.
    if workflow.execution_settings.keep_going and workflow.scheduler.failed and not workflow.scheduler.running:
        gather = [sys.executable, "profiles/gather.py"]
        if workflow.local_exec:
            Path("logs").mkdir(exist_ok=True)
            with open("logs/gather.log", "w") as log_of_gather:
                gathered = subprocess.run(gather, stdout=log_of_gather, stderr=subprocess.STDOUT).returncode == 0
            lines = Path("logs/gather.log").read_text().splitlines()
            said = [line for line in lines if line.startswith("missing: ")] if gathered else lines[-1:]
            print(*said, "(log: logs/gather.log)", file=sys.stderr)
        else:
            print("`python profiles/gather.py` compares and reports what there is", file=sys.stderr)


rule all:
    input:
        [relative(path) for path in made],  # also what the report no longer needs, once it is there
    localrule: True
    message:
        "the study is complete: reports/report.html"


for stage in stages.values():

    rule:
        name:
            re.sub(r"\W", "_", stage.addressing)
        input:
            inputs(stage),
            obeyed(stage),
        output:
            [reported(out) for out in stage.outs],
        params:
            stage=stage.addressing,
        log:
            f"logs/{stage.addressing}.log",
        benchmark:
            f"logs/benchmarks/{stage.addressing}.tsv"
        threads: settings.device.threads
        resources:
            gpu=GPUS if stage.name.split("@")[0] in COMPUTING else 0,
        message:
            f"{stage.addressing} (log: logs/{stage.addressing}.log)"
        shell:
            "python profiles/one_stage.py {params.stage:q} {resources.gpu} > {log:q} 2>&1"
