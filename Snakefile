# Runs the graph of dvc.yaml in parallel. There is no second copy of the graph here: one rule is made per DVC stage, and
# each rule asks DVC for its stage, so there is one cache, one lock file and one answer to what is up to date: DVC's.
# Nothing but Snakemake's own folder is written until a run starts: -n, --report, --lint and the like only read.

import atexit
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, os.path.join(workflow.basedir, "tools"))
import session

session.check_place(workflow.basedir)
session.stop_when_asked()

# A cluster's job reads this file again on its node, where nothing is left to check and write: MAIN is the process that was
# called.
MAIN = workflow.is_main_process

sys.path.insert(0, "stages")
import check_checkout
import dvc_status
from check_params import judge
from prunus.run import warm
from prunus.study import layout
from prunus.study import params as study_params
from prunus.study.mistakes import ParamsError
from remaining import Remaining

if MAIN:
    check_checkout.end_where_useless()
os.environ[warm.LAUNCHER] = str(os.getpid())
if not MAIN:  # a node of a cluster may run one stage only
    os.environ.setdefault(warm.SWITCH, "0")

COMPUTING = {
    "pretrain",
    "reference_flow",
    "prune_iteration",
    "prune_at_ratio",
    "evaluate",
    "evaluate_at_ratio",
    "evaluate_dense",
    "measure_information",
    "transfer",
}


def refuse_mistakes():
    """End here when params.yaml has mistakes, before any rule exists: their lines are printed."""
    if MAIN and session.fails(judge):
        sys.exit(2)


try:
    settings = study_params.read(methods=[])
except ParamsError as error:
    refuse_mistakes()
    sys.exit(f"params.yaml: {error}")  # edited since

os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])

changed = {}  # address -> why, of the stages that DVC calls changed
try:
    project = dvc_status.Workspace()
    if MAIN:
        changed |= project.changed
    if changed:  # else DVC has recorded that this params.yaml and this code have passed
        refuse_mistakes()
except dvc_status.ProjectError as error:
    sys.exit(f"snakemake: {error}")
except Exception:  # DVC on a value that it cannot put into dvc.yaml
    refuse_mistakes()
    raise
if MAIN and (uncached := project.uncached()):
    print(f"{len(uncached)} outputs are not in DVC's cache; `dvc commit` puts them there", file=sys.stderr)
# Snakemake plans a stage when an input is newer than its outputs. This file is an input of the stages that DVC calls
# changed; other inputs have no age, unless a stage that makes them is planned.
CHANGED = Path(".snakemake/changed")
CONSTANT = {"check_params"}  # stages whose outputs are always the same, so that nothing need run after them
moving = set()  # the stages that DVC calls changed, and what follows from them


def take_stock():
    """What Snakemake is to plan."""
    if MAIN:
        changed.clear()
        changed.update(project.changed)
    if changed:
        session.younger(CHANGED, [path for address in changed for path in dvc_status.outputs(project.stages[address])])
    moving.clear()
    moving.update(project.following(changed, CONSTANT) if MAIN else project.stages)


take_stock()
only_launcher = ExitStack()


def launch():
    """From here on this process is the only one that runs the study; ends in a line where another does."""
    only_launcher.enter_context(session.only_one())
    try:
        only_launcher.enter_context(project.claim("snakemake"))
    except dvc_status.ProjectError as error:
        sys.exit(f"snakemake: {error}")
    atexit.register(only_launcher.close)
    launched.add(True)


launched = set()  # not empty once ``launch`` has been called
asked_for = set()  # stages for which DVC's cache has been asked


def runs():
    """Whether Snakemake plans a run, `-n` included: only then has it an executor when the input functions are called."""
    return MAIN and workflow.executor_plugin is not None and not workflow.touch


def bring_back(addresses):
    """Before a run is planned: restore what DVC's cache holds for the stages of ``addresses`` and those before them.

    Only a run that is not a dry one may change files.
    """
    if not runs() or workflow.dryrun:
        return
    asked = project.leading_to(addresses) - asked_for
    asked_for.update(asked)
    if asked.isdisjoint(changed):
        return
    if not launched:
        launch()
    if session.wait_for(sorted(asked & changed.keys())):
        project.look_again()
    try:
        brought = project.bring_back(asked, CONSTANT, session.set_aside)
        take_stock()
    except (dvc_status.ProjectError, OSError) as error:
        sys.exit(f"snakemake: {error}; run the same command again")
    if brought:
        files = sum(map(len, brought.values()))
        print(f"{len(brought)} stages brought back from DVC's cache, {files} outputs", file=sys.stderr)


def at_once():
    """How many stages run at a time, those that wait for a GPU included."""
    return workflow.cores // settings.device.threads if workflow.local_exec else workflow.nodes


if MAIN:
    before = {address: [stage.addressing for stage in earlier] for address, earlier in project.before.items()}
    remaining = Remaining(before, at_once, logger.info)
    logger.addHandler(remaining)


def inputs(address):
    """Outputs of the stages before this one in DVC's graph. Code and data that no stage makes are for DVC to watch.

    Outputs of a planned stage keep their age, so that Snakemake plans what reads them. A run's graph leaves out what is
    up to date: DVC has just looked at it, and Snakemake would look at each file again.
    """

    def of_stage(wildcards):
        bring_back([address])
        files = [str(CHANGED)] if address in changed else []
        for earlier in project.before[address]:
            if runs() and earlier.addressing not in moving:
                continue
            paths = dvc_status.outputs(earlier)
            aged = address in changed or earlier.addressing in moving - CONSTANT
            files += paths if aged else [ancient(path) for path in paths]
        return sorted(files)

    return of_stage


def everything(wildcards):
    """All outputs, also those that an existing report no longer needs; of a run those that are not up to date."""
    bring_back(project.stages)
    wanted = [stage for address, stage in project.stages.items() if address in moving or not runs()]
    return [path for stage in wanted for path in dvc_status.outputs(stage)] or ["dvc.yaml"]


def what(stage):
    """The line of a planned stage, for Snakemake to format."""
    address, command = stage.addressing, stage.cmd if isinstance(stage.cmd, str) else stage.cmd[-1]
    options = dict(re.findall(r"--(\S+) (\S+)", command))
    meaning = ""
    if "iteration" in options:  # DVC's name counts it from 0
        chain = layout.chain(options["method"], options.get("ratio-of"))
        meaning = f"= {chain}, seed {options['seed']}, iteration {options['iteration']} "
    why = f"{changed[address]}; " if address in changed else ""
    return f"{address} {meaning}({why}log: logs/{address}.log)".replace("{", "{{").replace("}", "}}")


def stages_per_gpu(stage):
    """What one_stage.py waits for: a GPU with fewer stages than this. On a cluster each job has its own."""
    if stage.name.split("@")[0] not in COMPUTING or settings.device.accelerator == "cpu":
        return 0
    return settings.device.jobs_per_gpu if MAIN else "any"


def reported(path):
    """The output, which ``snakemake --report`` shows where reports/captions has a caption for it."""
    if not path.startswith("reports/"):
        return path
    caption = Path("reports/captions", f"{Path(path).stem}.rst").resolve()
    if not caption.exists():
        return path
    category = {".csv": "Tables", ".png": "Figures"}.get(Path(path).suffix, "Report")
    labels = {"what": Path(path).stem.replace("_", " ")}
    return report(path, caption=str(caption), category=category, labels=labels)


report: "reports/captions/workflow.rst"


onstart:
    if not launched:
        launch()
    # Again, because Snakemake has installed its own handler of SIGTERM.
    session.stop_when_asked(jobs_elsewhere=not workflow.local_exec, release=only_launcher.close)
    for address in remaining.left:  # all that are planned
        session.hold(address).close()
    # Snakemake and DVC delete outputs that are made again. DVC's cache has them, unless a script was run by hand.
    if not workflow.touch:
        planned = [project.stages[address] for address in remaining.left]
        made_anew = [stage for stage in planned if not project.restores(stage)]
        session.set_aside(path for stage in made_anew for path in project.unsaved(stage))
    # Otherwise the scheduler runs once more a second for each job that has ended, and no option turns that off: 367
    # stages that do nothing take 35 s instead of 22 s. A cluster keeps its limit.
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None


onerror:
    # On a cluster evaluations belong on its nodes, so only the command is printed.
    if remaining.failed and workflow.local_exec:
        only_launcher.close()
        Path("logs").mkdir(exist_ok=True)
        with open("logs/gather.log", "w") as log_of_gather:
            gather = [sys.executable, "tools/gather.py"]
            gathered = subprocess.run(gather, stdout=log_of_gather, stderr=subprocess.STDOUT).returncode == 0
        lines = Path("logs/gather.log").read_text().splitlines()
        summary = [line for line in lines if line.startswith("missing: ")] if gathered else lines[-1:]
        print(*summary, "(log: logs/gather.log)", file=sys.stderr)
    elif remaining.failed:
        print("`python tools/gather.py` compares and reports what there is", file=sys.stderr)


rule all:
    input:
        everything,
    localrule: True
    message:
        "the study is complete: reports/report.html"


for address, stage in project.stages.items():

    rule:
        name:
            re.sub(r"\W", "_", address)
        input:
            inputs(address),
        output:
            [reported(path) for path in dvc_status.outputs(stage)],
        params:
            stage=address,
            per_gpu=stages_per_gpu(stage),
        log:
            f"logs/{address}.log",
        benchmark:
            f"logs/benchmarks/{address}.tsv"
        localrule: address == "check_params"
        threads: settings.device.threads
        resources:
            **({} if stages_per_gpu(stage) else {"gpu": 0}),  # a cluster's profile sets it for the others
        message:
            what(stage)
        shell:
            "python tools/one_stage.py {params.stage:q} {params.per_gpu} > {log:q} 2>&1"
