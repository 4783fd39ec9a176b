"""A small study on a real Slurm: two nodes, GPUs, one node lost in mid-stage; then the same here, and bytes compared.

    sudo make slurm        # python tests/slurm/run.py [--log FILE]

cluster.py says how the machine is kept as it was.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cluster

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "pipeline"))

from project import Project, make_project  # noqa: E402

STUDY = {"study__methods": ["sap", "incop_if", "lth"], "device__accelerator": "auto"}
STUDY |= {"methods__sap__epochs": 60, "methods__lth__epochs": 60}  # a stage lasts some seconds
VICTIM = "node2"
OPTIONS = ("--profile", "profiles/slurm", "--slurm-no-account", "--slurm-init-seconds-before-status-checks", "2")
OPTIONS += ("--slurm-keep-successful-logs", "--slurm-partition-config", "profiles/slurm/partitions.yaml")
OPTIONS += ("--default-resources", "gpu=1", "runtime=10", "mem_mb=2000", "--latency-wait", "10")
SECONDS = 1800  # until a study that does not end is given up


class Log:
    """Lines with the seconds since the start, on the terminal and in a file."""

    def __init__(self, path: Path | None):
        self._start, self._file = time.monotonic(), path.open("w") if path else None

    def __call__(self, line: str = "") -> None:
        for text in line.splitlines() or [""]:
            text = f"{time.monotonic() - self._start:6.1f}  {text}" if text else ""
            print(text, flush=True)
            if self._file:
                print(text, file=self._file, flush=True)


def jobs() -> dict[str, dict[str, str]]:
    """Per Slurm job, ``scontrol show job``'s fields that say what ran where."""
    found = {}
    for block in cluster.run("scontrol", "show", "job").split("\n\n"):
        fields = dict(re.findall(r"(\w+(?:/\w+)?)=(\S*)", block))
        if "JobId" in fields:
            fields["Stage"] = fields.get("Comment", "").removeprefix("rule_")
            found[fields["JobId"]] = fields
    return found


def mid_stage(root: Path) -> dict[str, str] | None:
    """A pruning job whose script is at work on the node to be lost."""
    for fields in jobs().values():
        if fields["JobState"] == "RUNNING" and fields["NodeList"] == VICTIM and "prune_iteration" in fields["Stage"]:
            # Snakemake's rule is named after DVC's stage, with every other character an underscore.
            for log in root.glob("logs/prune_iteration@*.log"):
                if re.sub(r"\W", "_", log.stem) == fields["Stage"] and "Running stage" in log.read_text():
                    return fields | {"Address": log.stem}
    return None


def lose_a_node(simulated: cluster.Cluster, root: Path, running: subprocess.Popen, log: Log) -> str:
    """Kill the node in the middle of a stage, wait until Slurm notices, and boot it again; the job that was on it."""
    while (victim := mid_stage(root)) is None:
        if running.poll() is not None:
            raise cluster.ClusterError("the study ended before a pruning stage was seen on the node to be lost")
        time.sleep(0.1)
    job = victim["JobId"]
    time.sleep(2)
    simulated.kill_node(VICTIM)
    log(f"{VICTIM} killed in the middle of job {job}, {victim['Address']}")
    deadline = time.monotonic() + 180
    while jobs()[job]["Restarts"] == "0":
        if time.monotonic() > deadline:
            raise cluster.ClusterError(f"job {job} was not requeued within 180 s: {jobs()[job]}")
        time.sleep(0.2)
    state = cluster.run("sinfo", "-h", "-n", VICTIM, "-p", "gpu", "-o", "%T")
    log(f"{VICTIM} is {state}, job {job} is requeued: {cluster.run('squeue', '-h', '-j', job, '-o', '%T (%r)')}")
    simulated.start_node(VICTIM)
    return job


def devices() -> dict[str, list[str]]:
    """CUDA_VISIBLE_DEVICES of every step, as Slurm's task prologue saw it: per job, `node: devices`."""
    seen = {}
    for line in (cluster.STATE / "steps").read_text().splitlines():
        job, node, visible = line.split(" ")
        if f"{node}: {visible}" not in seen.setdefault(job, []):
            seen[job].append(f"{node}: {visible}")
    return seen


def compared(here: Path, there: Path) -> list[str]:
    """The files that both made, equal in all bytes; run records and tables with seconds in them are not looked at."""
    names = sorted(
        str(path.relative_to(here))
        for folder in ("data/prepared", "runs")
        for path in (here / folder).rglob("*")
        if path.is_file() and not path.is_relative_to(here / "runs/records")
    )
    different = [name for name in names if (here / name).read_bytes() != (there / name).read_bytes()]
    if different:
        raise cluster.ClusterError(f"differ from the local run: {', '.join(different)}")
    return names


def says(project: Project, wanted: str, *command: str) -> str:
    """``wanted``, which must be in the command's output."""
    output = project.run(*command)
    if wanted not in output:
        raise cluster.ClusterError(f"`{' '.join(command)}` says\n{output}")
    return wanted


def study(log: Log) -> None:
    simulated = cluster.Cluster()
    simulated.start()
    scratch = cluster.STATE  # in memory, and gone with the cluster
    log(
        f"{cluster.run('sinfo', '--version')}; "
        + cluster.run("sinfo", "-h", "-N", "-p", "gpu", "-o", "%N %T %c CPUs %G").replace("\n", "; ")
    )
    remote = make_project(scratch / "shared", report=True, **STUDY)
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    log(f"snakemake {' '.join(OPTIONS)}")
    output = scratch / "snakemake.log"
    with output.open("w") as file:
        running = subprocess.Popen(
            ["snakemake", *OPTIONS], cwd=remote.root, env=os.environ | {"PATH": tools}, stdout=file, stderr=file
        )
    try:
        lost = lose_a_node(simulated, remote.root, running, log)
        status = running.wait(SECONDS)
    except BaseException:
        log(output.read_text()[-6000:])
        raise
    ended, seen = jobs(), devices()
    if status:
        logs = "".join(path.read_text()[-1500:] for path in remote.root.glob("logs/*.log"))
        raise cluster.ClusterError(f"snakemake ended with status {status}\n{output.read_text()[-6000:]}\n{logs}")
    log("the study has finished; what ran where, for how long, and CUDA_VISIBLE_DEVICES there")
    for job, fields in ended.items():
        again = f"  requeued {fields['Restarts']}x" if fields["Restarts"] != "0" else ""
        where = ", ".join(seen.get(job, ["?"]))
        log(f"  job {job:>3}  {fields['Stage']:<38} {fields['Partition']}  {fields['RunTime']}  {where}{again}")
    if ended[lost]["Restarts"] == "0" or ended[lost]["JobState"] != "COMPLETED":
        raise cluster.ClusterError(f"job {lost} was not requeued: {ended[lost]}")
    local = make_project(scratch / "local", report=True, **STUDY)
    local.snakemake()
    log(f"same bytes as local: {len(compared(local.root, remote.root))} files")
    log(f"dvc status: {says(remote, 'Data and pipelines are up to date.', 'dvc', 'status')}")
    log(f"snakemake -n: {says(remote, 'Nothing to be done', 'snakemake', '-n')}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--log", type=Path, help="write the log to this file as well")
    options = arguments.parse_args()
    try:
        cluster.enter()
        study(Log(options.log))
    except cluster.ClusterError as error:
        sys.exit(f"{Path(__file__).name}: {error}")


if __name__ == "__main__":
    main()
