"""Nothing that stands in params.yaml reaches a shell, whoever calls the stages: DVC puts values into their commands."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from project import ROOT, environment
from prunus.study import commands

GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
CANARY = "0; touch $CANARY #"
# Where the canary is put, one key at a time; what else must be there for the stage to exist.
EVIL = {
    "study.seeds[]": {"study__seeds": [CANARY]},
    "study.methods[]": {"study__methods": ["sap", f"incop_if {CANARY}"]},
    "study.iterations[].t": {"study__iterations": [{"t": f"1 {CANARY}", "after": "../dense"}]},
    "imposed.ratio_of": {"imposed__ratio_of": f"sap {CANARY}", "imposed__methods": ["thinet"]},
    "imposed.methods[]": {"imposed__ratio_of": "sap", "imposed__methods": [f"thinet {CANARY}"]},
    "transfer.datasets[]": {"transfer__datasets": [f"digits {CANARY}"], "transfer__methods": ["sap"]},
    "transfer.methods[]": {"transfer__datasets": ["digits"], "transfer__methods": [f"sap {CANARY}"]},
    "information.methods[]": {"information__methods": [f"sap {CANARY}"]},
}


def in_commands():
    """The keys of params.yaml whose values stand in a command of dvc.yaml, as ``commands.JUDGES`` spells them."""
    found = set()
    for stage in GRAPH.values():
        for name in re.findall(r"\$\{(.+?)\}", str(stage["cmd"])):
            if name.startswith("item."):
                variable, *rest = name.removeprefix("item.").split(".")
                name = ".".join([stage["matrix"][variable][2:-1] + "[]", *rest])
            found.add(name)
    return found


def test_every_value_that_stands_in_a_command_is_judged():
    assert in_commands() == set(commands.JUDGES) == set(EVIL)


def test_every_command_that_holds_a_value_comes_after_the_judgement():
    for name, stage in GRAPH.items():
        if "${" in str(stage["cmd"]):
            judgement, run = stage["cmd"]
            assert judgement == "python stages/check_params.py --commands", name
            assert "${" not in judgement and "${" in run
        assert "runs/checked.txt" in stage["deps"] or name == "check_params"


def at(content, key):
    for name in key.split("."):
        content = content[name.removesuffix("[]")]
        content = content[0] if name.endswith("[]") else content
    return content


def put(content, key, value):
    *parents, last = key.split(".")
    for name in parents:
        content = content[name.removesuffix("[]")]
        content = content[0] if name.endswith("[]") else content
    if last.endswith("[]"):
        content[last.removesuffix("[]")] = [value]
    else:
        content[last] = value


IGNORED = "(not a method of this study: ignored)"
VALID = yaml.safe_load((ROOT / "params.yaml").read_text())


def test_the_shipped_values_may_stand_in_commands():
    commands.check(VALID)


@pytest.mark.parametrize(
    "value", ["0", "0; touch x", "$(touch x)", "`x`", "x\ny", "sap ", "../sap", True, 1.0, -1, None, [0], {"a": 1}]
)
@pytest.mark.parametrize("key", commands.JUDGES)
def test_nothing_but_numbers_and_names_may_stand_in_a_command(key, value):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    put(content, key, value)
    with pytest.raises(commands.ParamsError, match=re.escape(key.replace("[]", "[0]"))):
        commands.check(content)


@pytest.mark.parametrize("key", commands.JUDGES)
def test_what_is_no_list_is_refused(key):
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    put(content, key.partition("[]")[0], {"a": "0; touch x"})
    with pytest.raises(commands.ParamsError):
        commands.check(content)


@pytest.fixture
def refused(finished, tmp_path, monkeypatch):
    """A function that runs a command, which must not run what stands in the key, and returns what it says."""
    canary = tmp_path / "canary"  # outside of any copy of the project
    monkeypatch.setenv("CANARY", str(canary))

    def run(key, *command):
        output = finished.run(*command, status=None)
        assert not canary.exists(), f"{command} has run what stands in {key}"
        return output

    return run


@pytest.mark.parametrize("key", EVIL)
def test_dvc_repro_runs_no_canary_and_names_the_key(key, finished, refused):
    finished.edit(**EVIL[key])
    output = refused(key, "dvc", "repro")
    assert f"params.yaml: {key.partition('[]')[0]}" in output
    assert "Traceback" not in output


def addresses(project):
    """The stages as DVC calls them whose commands hold the canary."""
    script = (
        "from dvc.repo import Repo\nfor s in Repo().index.stages: print(s.addressing) if 'CANARY' in str(s.cmd) else 0"
    )
    return project.run("python", "-c", script).splitlines()


@pytest.mark.parametrize("key", EVIL)
def test_a_single_stage_asked_for_by_its_name_runs_no_canary(key, finished, refused):
    finished.edit(**EVIL[key])
    names = addresses(finished)
    assert names
    assert "params.yaml: " in refused(key, "dvc", "repro", "--single-item", "--force", names[0])


def test_snakemake_runs_no_canary(finished, refused):
    for key, changes in EVIL.items():
        finished.git("checkout", "params.yaml")
        finished.edit(**changes)
        assert "params.yaml: " in refused(key, "snakemake", "--cores", "2")


OVERRIDE = f"study.iterations=[{{t: '1 {CANARY}', after: ../dense}}]"
SAID = "params.yaml: study.iterations[0].t"


@pytest.fixture
def committed(finished):
    finished.git("add", "-A")
    finished.git("commit", "-qm", "finished")
    return finished


def test_experiments_in_the_workspace_run_no_canary(committed, refused):
    assert SAID in refused("study.iterations[].t", "dvc", "exp", "run", "-S", OVERRIDE)
    for key, changes in EVIL.items():
        committed.git("checkout", "params.yaml")
        committed.edit(**changes)
        assert f"params.yaml: {key.partition('[]')[0]}" in refused(key, "dvc", "exp", "run")


def test_experiments_in_a_copy_run_no_canary(committed, refused):
    committed.run("git", "config", "user.name", "test")
    committed.run("git", "config", "user.email", "test@localhost")
    assert SAID in refused("study.iterations[].t", "dvc", "exp", "run", "--temp", "-S", OVERRIDE)


def test_queued_experiments_run_no_canary(committed, refused):
    committed.run("git", "config", "user.name", "test")
    committed.run("git", "config", "user.email", "test@localhost")
    name = re.search(r"'([\w-]+)'", refused("study.iterations[].t", "dvc", "exp", "run", "--queue", "-S", OVERRIDE))[1]
    refused("study.iterations[].t", "dvc", "exp", "run", "--run-all", "--jobs", "1")
    assert SAID in refused("study.iterations[].t", "dvc", "queue", "logs", name)


def test_a_mistake_is_judged_without_torch(finished):
    finished.edit(methods__sap__eta="much")
    code = "import runpy, sys; sys.argv = ['check_params.py']; sys.path.insert(0, 'stages')\n"
    code += "try: runpy.run_path('stages/check_params.py', run_name='__main__')\n"
    code += "finally: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=finished.root, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stdout.split() == ["False"]
    assert "methods.sap.eta" in done.stderr


def test_a_method_that_computes_when_it_is_imported_is_judged_too(finished):
    path = finished.root / "stages/prunus/methods/sap.py"
    path.write_text(
        path.read_text() + "\nimport torch\n\nTOTAL = int((torch.arange(3) + 1).sum())\nassert TOTAL == 6\n"
    )
    assert "is valid" in finished.run("python", "stages/check_params.py")
    finished.edit(methods__sap__eta="much")
    assert "methods.sap.eta" in finished.run("python", "stages/check_params.py", status=2)


def test_the_judgement_without_torch_is_the_judgement(finished):
    finished.edit(methods__sap__eta="much", study__network="linear", information__methods=["sap"])
    judged = finished.run("python", "stages/check_params.py", status=2)
    code = "import sys, torch; sys.path.insert(0, 'stages'); from check_params import _judge\n"
    code += "from prunus.study.mistakes import refused_in_words\nwith refused_in_words(): _judge()"
    assert judged == finished.run("python", "-c", code, status=2)
    assert len(judged.splitlines()) >= 3


def test_a_method_of_another_study_stops_nothing_whatever_is_wrong_with_it(finished):
    path = finished.root / "stages/prunus/methods/oto.py"
    path.write_text(path.read_text() + "\nthis is no Python\n")
    line = len(path.read_text().splitlines())
    file = f"params.yaml: methods.oto: stages/prunus/methods/oto.py, line {line}: SyntaxError: invalid syntax {IGNORED}"
    for confidence, command in (2.0, ["snakemake", "--cores", "2"]), (3.0, ["dvc", "repro"]):
        finished.edit(methods__mipp__confidence=confidence, methods__sap__epochs=int(confidence))
        output = finished.run(*command)
        block = f"params.yaml: methods.mipp.confidence: {confidence} should be less than 1 {IGNORED}"
        assert block in output and file in output and "Traceback" not in output, output
        settings = json.loads((finished.root / "runs/seed0/sap/iteration-1/metrics.json").read_text())["settings"]
        assert settings["epochs"] == confidence


def test_a_misspelt_method_is_named_under_dvc(finished):
    finished.edit(study__methods=["random_prunning"])
    output = finished.run("dvc", "repro", status=None)
    assert "params.yaml: study.methods: 'random_prunning' has no block" in output
    assert "Errno" not in output


def test_no_stage_runs_again_because_params_yaml_was_judged_again(finished):
    path = finished.root / "params.yaml"
    path.write_text(path.read_text() + "# a remark\n")
    assert "Running stage 'check_params'" in finished.run("dvc", "repro")
    assert finished.repro() == set()
    assert finished.snakemake() == set()


def test_an_absent_folder_of_own_images_is_named_with_its_key_under_dvc(finished):
    finished.edit(data__image_folder__path="nowhere")
    output = finished.run("dvc", "repro", status=None)
    assert "params.yaml: data.image_folder.path: 'nowhere' is not a folder" in output
    assert "Errno" not in output
