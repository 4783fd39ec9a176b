"""What every rule carries, GPUs found and shared without a flag, mistakes refused before any rule exists, dvc.lock."""

import re
import shutil

import pytest
from dvc import dvcfile
from dvc.repo import Repo
from dvc.utils.serialize import dumps_yaml, load_yaml

import lockfile


@pytest.fixture(scope="module")
def unrun(fresh):
    return fresh("unrun")


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
        amounts = rule.resources.get("_cores"), rule.resources.get("gpu")
        amounts = [getattr(amount, "value", amount) for amount in amounts]
        per_gpu = dict(rule.params._allitems()).get("per_gpu")
        print(rule.name, len(rule.log), rule.benchmark is not None, *amounts, per_gpu, sep="|")
"""


def rules(project):
    """Per rule: log files, whether it has a benchmark, threads, GPUs it asks a cluster for, and stages on its GPU."""
    script = project.root / "rules.py"
    script.write_text(RULES)
    lines = project.run("python", "rules.py").splitlines()
    found = {}
    for line in lines:
        if line.count("|") == 5:
            name, logs, benchmark, threads, gpu, per_gpu = line.split("|")
            found[name] = (int(logs), benchmark == "True", threads, gpu, per_gpu)
    script.unlink()
    return found


def test_every_rule_has_log_benchmark_threads_and_resources(unrun):
    found = rules(unrun)
    assert len(found) == 16
    for name, (logs, benchmark, threads, gpu, _) in found.items():
        if name != "all":
            assert (logs, benchmark, threads, gpu) == (1, True, "1", "0"), name


@pytest.mark.parametrize("per_gpu", [1, 3])
def test_stages_that_compute_wait_for_room_on_a_gpu_without_a_flag(unrun, per_gpu):
    unrun.edit(device__accelerator="auto", device__jobs_per_gpu=per_gpu)
    found = rules(unrun)
    on_gpu = {name for name, rule in found.items() if rule[4] == str(per_gpu)}
    others = {"all", "check_params", "prepare_data", "compare", "report"}
    others |= {name for name in found if name.startswith("chain_reference")}
    assert on_gpu == set(found) - others
    assert {found[name][4] for name in others - {"all"}} == {"0"}
    assert {found[name][3] for name in on_gpu} == {"None"} and {found[name][3] for name in others - {"all"}} == {"0"}


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
def test_one_stage_changes_dvc_lock_as_dvc_does(finished, monkeypatch, change):
    monkeypatch.setattr(lockfile.Lockfile, "only", "compare", raising=False)
    path = finished.root / "dvc.lock"
    stage = next(stage for stage in Repo(str(finished.root)).index.stages if stage.name == "compare")
    before, after = change(path.read_text()), {}
    for writer in (dvcfile.Lockfile, lockfile.Lockfile):
        path.unlink(missing_ok=True)
        if before is not None:
            path.write_text(before)
        writer(stage.repo, str(path)).dump_stages([stage])
        after[writer] = path.read_text()
        entry = lockfile.Lockfile(stage.repo, str(path)).load()["stages"]["compare"]
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
        code = {dep["path"]: dep["md5"] for dep in stage["deps"]}["stages/prunus/reporting"]
        return stage["params"]["params.yaml"]["training"]["sgd"]["learning_rate"], code

    before = recorded()
    (finished.root / "stages/report.py").write_text(EDITS)
    finished.run("python", "tools/one_stage.py", "report", "0")
    assert recorded() == before
    assert "learning_rate: 0.07" in (finished.root / "params.yaml").read_text()
