"""profiles/slurm without a Slurm (tests/slurm has one): stages that compute ask for a GPU, the others for none."""

import re

import pytest

# A dry run that prints what Snakemake's plugin would ask `sbatch` for.
DRY_RUN = """
import logging
import sys
from pathlib import Path
from snakemake.cli import main
from snakemake.executors import dryrun
from snakemake_executor_plugin_slurm.partitions import get_best_partition, read_partition_file
from snakemake_executor_plugin_slurm.utils import set_gres_string

partitions = read_partition_file(Path("profiles/slurm/partitions.yaml"))
run_job = dryrun.Executor.run_job

def shown(self, job):
    partition = get_best_partition(partitions, job, logging.getLogger("quiet"))
    print("asks", job.name, set_gres_string(job).strip() or "-", job.resources.runtime, job.resources.mem_mb, partition)
    run_job(self, job)

dryrun.Executor.run_job = shown
sys.argv = ["snakemake", "--dryrun", "--nolock", "--profile", "profiles/slurm"]
main()
"""


@pytest.fixture(scope="module")
def asked(fresh):
    """Per job: GPUs, minutes, memory and partition."""
    project = fresh("slurm")
    project.edit(device__accelerator="auto")
    (project.root / "dry_run.py").write_text(DRY_RUN)
    lines = re.findall(r"^asks (\S+) (\S+) (\S+) (\S+) (\S+)$", project.run("python", "dry_run.py"), re.MULTILINE)
    return {name: values for name, *values in lines if name != "all"}


def test_stages_that_compute_ask_for_one_gpu_whatever_this_machine_has(asked):
    assert len(asked) == 15
    none = {name for name, (gpus, *_) in asked.items() if gpus == "-"}
    references = {f"chain_reference_0_{method}" for method in ("sap", "incop_if")}
    assert none == {"check_params", "prepare_data", "compare", "report"} | references
    assert {gpus for gpus, *_ in asked.values()} == {"-", "--gpus=1"}


def test_minutes_memory_and_partition_are_the_profiles(asked):
    assert {(gpus, partition) for gpus, *_, partition in asked.values()} == {("-", "cpu"), ("--gpus=1", "gpu")}
    assert {(minutes, memory) for _, minutes, memory, _ in asked.values()} == {("240", "16000")}
