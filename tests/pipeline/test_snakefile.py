"""What every rule carries, GPUs found and shared without a flag, mistakes refused before any rule exists, dvc.lock."""

import importlib.util
import re
import shutil

import pytest
from dvc import dvcfile
from dvc.repo import Repo
from dvc.utils.serialize import dumps_yaml, load_yaml


@pytest.fixture(scope="module")
def unrun(fresh):
    return fresh("unrun")


def pretend_gpus(project, monkeypatch, count):
    folder = project.root / "bin"
    folder.mkdir(exist_ok=True)
    command = folder / "nvidia-smi"
    lines = [f"echo 'GPU {index}: A (UUID: GPU-{index}a)'" for index in range(count)]
    command.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


RULES = """
import sys
from snakemake.api import SnakemakeApi, OutputSettings
from snakemake.settings.types import ConfigSettings, ResourceSettings, StorageSettings
from snakemake.settings.enums import Quietness
with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    made = api.workflow(resource_settings=ResourceSettings(cores=2), config_settings=ConfigSettings(),
                        storage_settings=StorageSettings(), snakefile="Snakefile")
    workflow = made._workflow
    for rule in workflow.rules:
        amounts = rule.resources.get("_cores"), rule.resources.get("gpu"), workflow.global_resources.get("gpu")
        amounts = [getattr(amount, "value", amount) for amount in amounts]
        print(rule.name, len(rule.log), rule.benchmark is not None, *amounts, sep="|")
"""


def rules(project):
    """Per rule: log files, whether it has a benchmark, threads, GPUs and the GPUs of the whole run."""
    script = project.root / "rules.py"
    script.write_text(RULES)
    lines = project.run("python", "rules.py").splitlines()
    found = {}
    for line in lines:
        if line.count("|") == 5:
            name, logs, benchmark, threads, gpu, slots = line.split("|")
            found[name] = (int(logs), benchmark == "True", threads, gpu, slots)
    script.unlink()
    return found


def test_every_rule_has_log_benchmark_threads_and_resources(unrun):
    found = rules(unrun)
    assert len(found) == 14
    for name, (logs, benchmark, threads, gpu, _) in found.items():
        if name != "all":
            assert (logs, benchmark, threads, gpu) == (1, True, "1", "0"), name


@pytest.mark.parametrize(("per_gpu", "slots"), [(1, "2"), (3, "6")])
def test_training_stages_take_a_gpu_each_without_a_flag(unrun, monkeypatch, per_gpu, slots):
    unrun.edit(device__accelerator="auto", device__jobs_per_gpu=per_gpu)
    pretend_gpus(unrun, monkeypatch, 2)
    found = rules(unrun)
    assert {rule[4] for rule in found.values()} == {slots}
    on_gpu = {name for name, rule in found.items() if rule[3] == "1"}
    assert on_gpu == set(found) - {"all", "check_params", "prepare_data", "compare", "report"}


def test_a_mistake_is_one_line_and_status_2_before_any_rule(unrun):
    unrun.edit(methods__sap__p=2.0)
    text = unrun.run("snakemake", "--cores", "2", status=2)
    assert "params.yaml: methods.sap: " in text
    assert "must have p < q, got p: 2.0, q: 1.0" in text
    assert "Traceback" not in text
    unrun.edit(methods__sap__p=0.5)


def test_a_project_without_git_is_one_line(unrun, tmp_path):
    project = unrun.copy(tmp_path / "zip")
    shutil.rmtree(project.root / ".git")
    text = project.run("snakemake", "--cores", "2", status=2)
    assert "is not in a git repository (a zip of the project has none); `git init && git add -A" in text
    assert "Traceback" not in text and "Building DAG" not in text


def test_how_long_it_will_take_is_said_before_it_starts(finished):
    finished.edit(methods__sap__epochs=2)
    assert re.search(r"^about \d+ (s|min) left$", finished.run("snakemake", "-n", "--cores", "2"), re.MULTILINE)


def test_dvc_names_the_mistake_and_trains_nothing(unrun):
    unrun.edit(methods__incop_if__epsilon=-1.0)
    text = unrun.run("dvc", "repro", "prepare_data", "pretrain", status=255)
    assert "params.yaml: methods.incop_if.epsilon: -1.0 should be greater than or equal to 0" in text
    assert "Traceback" not in text
    assert not (unrun.root / "runs/seed0/dense/network.safetensors").exists()
    unrun.edit(methods__incop_if__epsilon=0.1)


def test_dvc_lock_is_as_dvc_writes_it(by_snakemake):
    path = by_snakemake.root / "dvc.lock"
    content = load_yaml(path)
    assert set(content["stages"]) == by_snakemake.first_run | {"check_params"}
    assert path.read_text() == dumps_yaml(content)


CHANGES = {
    "another entry": lambda text: text.replace("  compare:\n    cmd: python", "  compare:\n    cmd: python3"),
    "no entry": lambda text: re.sub(r"(?m)^  compare:\n(    .*\n)+", "", text),
    "the entry as it should be": lambda text: text,
    "a stranger's comment": lambda text: "# mine\n" + text.replace("cmd: python stages/compare", "cmd: old"),
    "no stage at all": lambda text: None,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_one_stage_changes_dvc_lock_as_dvc_does(finished, change):
    specification = importlib.util.spec_from_file_location("one_stage", finished.root / "tools/one_stage.py")
    one_stage = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(one_stage)
    one_stage.NAME = "compare"
    path = finished.root / "dvc.lock"
    stage = next(stage for stage in Repo(str(finished.root)).index.stages if stage.name == "compare")
    before, after = change(path.read_text()), {}
    for writer in (dvcfile.Lockfile, one_stage.Lockfile):
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_text(before)
        writer(stage.repo, str(path)).dump_stages([stage])
        after[writer] = path.read_text()
        entry = one_stage.Lockfile(stage.repo, str(path)).load()["stages"]["compare"]
        assert entry == load_yaml(path)["stages"]["compare"]
    assert len(set(after.values())) == 1


EDITS = """
from pathlib import Path
import yaml

for out in yaml.safe_load(Path("dvc.lock").read_text())["stages"]["report"]["outs"]:
    Path(out["path"]).parent.mkdir(parents=True, exist_ok=True)
    Path(out["path"]).write_text("made")
params = Path("params.yaml")
params.write_text(params.read_text().replace("learning_rate: 0.05", "learning_rate: 0.07"))
with open("stages/prunus/reporting/page.py", "a") as code:
    code.write("# edited")
"""


def test_an_edit_while_a_stage_runs_is_not_taken_for_what_it_ran_with(finished):
    def recorded():
        stage = load_yaml(finished.root / "dvc.lock")["stages"]["report"]
        code = {dep["path"]: dep["md5"] for dep in stage["deps"]}["stages/prunus/reporting/page.py"]
        return stage["params"]["params.yaml"]["training"]["sgd"]["learning_rate"], code

    before = recorded()
    (finished.root / "stages/report.py").write_text(EDITS)
    finished.run("python", "tools/one_stage.py", "report", "0")
    assert recorded() == before
    assert "learning_rate: 0.07" in (finished.root / "params.yaml").read_text()
