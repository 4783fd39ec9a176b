# Runs the graph of dvc.yaml in parallel. There is no second copy of the graph here: one rule is made per DVC stage, and
# each rule asks DVC for its stage, so DVC's cache, its lock file and its idea of what is up to date stay the only ones.
# Nothing but Snakemake's own folder is written until a run starts: -n, --report, --lint and the like only read.

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, os.path.join(workflow.basedir, "tools"))
import session

session.check_place(workflow.basedir)
session.stop_when_asked()

# Meanwhile DVC's index is read below. A cluster's job reads this file once more on its node, where all has been checked
# and written: MAIN is the process that was called.
MAIN = workflow.is_main_process
CHECK = "import sys; sys.path.insert(0, 'stages'); from check_params import judge; judge()"
checking = subprocess.Popen([sys.executable, "-c", CHECK if MAIN else ""])

import networkx
from dvc.dvcfile import Lockfile
from dvc.repo import Repo
from dvc.stage import PipelineStage

sys.path.insert(0, "stages")
import check_checkout
import dvc_status
from prunus.run import gpus
from prunus.study import params as study_params
from prunus.study.mistakes import ParamsError
from remaining import Remaining
from verify import unreadable_records

if MAIN:
    check_checkout.end_where_useless()

COMPUTING = {"pretrain", "reference_flow", "prune_iteration", "prune_at_ratio", "evaluate", "evaluate_at_ratio"}
COMPUTING |= {"evaluate_dense", "measure_information", "transfer"}


def refuse_mistakes():
    """End here when params.yaml has mistakes, before any rule exists; Snakemake would bury the lines in a traceback."""
    if checking.wait():
        os._exit(2)


try:
    settings = study_params.read(methods=[])
except ParamsError as error:
    refuse_mistakes()
    sys.exit(f"params.yaml: {error}")  # edited since


os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])

GPU_SLOTS = 0 if settings.device.accelerator == "cpu" else len(gpus.visible()) * settings.device.jobs_per_gpu
GPUS = min(GPU_SLOTS, 1)  # of a stage that computes
on_a_cluster = workflow.resource_settings._parsed_default_resources.get("gpu").value  # profiles/slurm
if on_a_cluster is not None:  # whatever this machine has
    GPUS = on_a_cluster if settings.device.accelerator != "cpu" else 0
elif GPU_SLOTS and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", GPU_SLOTS)

Lockfile.load = lambda lockfile: {}  # dvc.yaml has the whole graph, and dvc_status reads dvc.lock
try:
    repo = Repo()
except (OSError, sqlite3.OperationalError) as error:
    sys.exit(f"snakemake: DVC cannot start: {error}; mend that, then run the same command again")
except sqlite3.DatabaseError as error:
    sys.exit(f"snakemake: DVC's database of files: {error}; `python tools/verify.py`, then the same command again")
index = repo.index
graph = index.graph
stages = {stage.addressing: stage for stage in index.stages if isinstance(stage, PipelineStage)}
made = [os.path.relpath(out.fs_path) for stage in stages.values() for out in stage.outs]
refuse_mistakes()

changed = {}  # address -> why, of the stages that DVC calls changed
if MAIN:
    try:
        workspace = dvc_status.Workspace(repo, dvc_status.entries(Path("dvc.lock")))
    except dvc_status.LockError as error:
        sys.exit(f"snakemake: {error}")
    changed = workspace.changed(stages.values())
    uncached = workspace.uncached(stage for address, stage in stages.items() if address not in changed)
    if uncached:
        print(f"{len(uncached)} outputs are not in DVC's cache; `dvc commit` puts them there", file=sys.stderr)
    for path in unreadable_records(Path(".snakemake/metadata")):
        print(f"{path} is damaged: removed, it only says how an output was made", file=sys.stderr)
        path.unlink()
# Snakemake plans a stage when an input is younger than its outputs. To those that DVC calls changed this file is one;
# other inputs have no age, unless a stage that makes them is planned.
CHANGED = Path(".snakemake/changed")
CONSTANT = {"check_params"}  # stages whose outputs are always the same, so that nothing need run after them
if changed:
    session.younger(CHANGED, [out.fs_path for address in changed for out in stages[address].outs])
moving = set() if MAIN else set(stages)
for stage in networkx.dfs_postorder_nodes(graph):  # what a stage reads comes before it
    if stage.addressing in changed or moving & {earlier.addressing for earlier in graph.successors(stage)} - CONSTANT:
        moving.add(stage.addressing)


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
    """Outputs of the stages before this one in DVC's graph. Code and data that no stage makes are for DVC to watch.

    Of a stage after one that is planned Snakemake asks no more whether it is younger itself: it must follow from that.
    """
    found = [str(CHANGED)] if stage.addressing in changed else []
    for earlier in graph.successors(stage):
        paths = [relative(out.fs_path) for out in earlier.outs]
        aged = stage.addressing in changed or earlier.addressing in moving - CONSTANT
        found += paths if aged else [ancient(path) for path in paths]
    return sorted(found)


def what(stage):
    """The line of a stage that is planned, for Snakemake to format."""
    why = f"{changed[stage.addressing]}; " if stage.addressing in changed else ""
    return f"{stage.addressing} ({why}log: logs/{stage.addressing}.log)".replace("{", "{{").replace("}", "}}")


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
    global running
    running = session.only_one()
    session.stop_when_asked(jobs_elsewhere=not workflow.local_exec)  # for Snakemake has taken SIGTERM over
    # Snakemake and DVC delete what a stage is to make again. DVC's cache has it, unless a script was run by hand.
    if not workflow.touch:
        planned = [stages[job.params.stage] for job in workflow.dag.needrun_jobs() if job.rule.name != "all"]
        made_anew = [stage for stage in planned if not workspace.restores(stage)]
        session.set_aside(path for stage in made_anew for path in workspace.unsaved(stage))
    # The limit on job starts (100 a second) re-runs the scheduler every second once more for each job that has ended:
    # at 300 stages that takes a core. A cluster keeps it.
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


onerror:
    # Not after Ctrl-C, which leaves jobs. On a cluster evaluations are for its nodes, so there the command is named.
    if workflow.execution_settings.keep_going and workflow.scheduler.failed and not workflow.scheduler.running:
        gather = [sys.executable, "tools/gather.py"]
        if workflow.local_exec:
            Path("logs").mkdir(exist_ok=True)
            with open("logs/gather.log", "w") as log_of_gather:
                gathered = subprocess.run(gather, stdout=log_of_gather, stderr=subprocess.STDOUT).returncode == 0
            lines = Path("logs/gather.log").read_text().splitlines()
            said = [line for line in lines if line.startswith("missing: ")] if gathered else lines[-1:]
            print(*said, "(log: logs/gather.log)", file=sys.stderr)
        else:
            print("`python tools/gather.py` compares and reports what there is", file=sys.stderr)


rule all:
    input:
        made,  # also what the report no longer needs, once it is there
    localrule: True
    message:
        "the study is complete: reports/report.html"


for stage in stages.values():

    rule:
        name:
            re.sub(r"\W", "_", stage.addressing)
        input:
            inputs(stage),
        output:
            [reported(out) for out in stage.outs],
        params:
            stage=stage.addressing,
        log:
            f"logs/{stage.addressing}.log",
        benchmark:
            f"logs/benchmarks/{stage.addressing}.tsv"
        localrule: stage.addressing == "check_params"
        threads: settings.device.threads
        resources:
            gpu=GPUS if stage.name.split("@")[0] in COMPUTING else 0,
        message:
            what(stage)
        shell:
            "python tools/one_stage.py {params.stage:q} {resources.gpu} > {log:q} 2>&1"
