"""The fully expanded graph of a small study, and what dvc.yaml says of code and parameters."""

import ast
import re

import pytest
import yaml
from dvc.repo import Repo

from prunus.run.code import STAGES, rooms
from prunus.study.catalogue import method_names

SCRIPTS = sorted(path.stem for path in STAGES.glob("*.py"))
METHOD = "stages/prunus/methods/${item.method}.py"
ROOT = STAGES.parent
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]

EXPANDED = {
    "prepare_data": [],
    "pretrain@0": ["prepare_data"],
    "reference_flow@0": ["prepare_data", "pretrain@0"],
    "evaluate_dense@0": ["prepare_data", "pretrain@0"],
}
for _method in ("sap", "incop_if"):
    _first, _second = (f"prune_iteration@0-{_method}-iteration{position}" for position in (0, 1))
    EXPANDED |= {
        f"chain_reference@0-{_method}": ["reference_flow@0"],
        _first: [f"chain_reference@0-{_method}", "prepare_data", "pretrain@0"],
        _second: [f"chain_reference@0-{_method}", "prepare_data", "pretrain@0", _first],
        f"evaluate@0-{_method}": ["evaluate_dense@0", "prepare_data", "pretrain@0", _first, _second],
    }
EXPANDED["compare"] = sorted({name for name in EXPANDED if not name.startswith("chain_reference")})
EXPANDED["report"] = ["compare"]


def stages_before(project):
    """The stages that come before each in the expanded graph, check_params apart, on which every one depends."""
    graph = Repo(str(project.root)).index.graph
    before = {stage.name: {other.name for other in graph.successors(stage)} for stage in graph.nodes}
    assert before.pop("check_params") == set()
    assert all("check_params" in names for names in before.values())
    return {name: names - {"check_params"} for name, names in before.items()}


def test_expanded_graph(fresh):
    assert {name: sorted(names) for name, names in stages_before(fresh("graph")).items()} == EXPANDED


def commands(name):
    """What a stage runs, one after the other."""
    cmd = GRAPH[name]["cmd"]
    return [cmd] if isinstance(cmd, str) else cmd


def test_the_picture_of_the_graph_is_current(fresh):
    drawn = fresh("picture").run("dvc", "dag", "--md", "--collapse-foreach-matrix").strip()
    page = (ROOT / "docs/how-to/run-in-parallel.md").read_text()
    assert drawn.expandtabs(4) in page, f"docs/how-to/run-in-parallel.md should have\n{drawn.expandtabs(4)}"


def script(name):
    """The name of the script that a stage runs, after the judgement of what stands in its command."""
    return re.match(r"python stages/(\w+)\.py ", commands(name)[-1] + " ").group(1)


def test_every_script_is_a_stage_of_its_name():
    assert {name: script(name) for name in SCRIPTS} == {name: name for name in SCRIPTS}
    others = {name: script(name) for name in GRAPH if name not in SCRIPTS}
    assert others == {"prune_at_ratio": "prune_iteration", "evaluate_at_ratio": "evaluate"}


def test_a_ratio_is_imposed_by_stages_of_their_own(fresh):
    project = fresh("imposed")
    project.edit(study__methods=["imp_channels"], imposed__ratio_of="imp_channels", imposed__methods=["thinet"])
    before = stages_before(project)
    first, second = (f"prune_at_ratio@0-thinet-iteration{position}" for position in (0, 1))
    assert "prune_iteration@0-imp_channels-iteration0" in before[first]
    assert before[second] >= {"prune_iteration@0-imp_channels-iteration1", first}
    assert before["evaluate_at_ratio@0-thinet"] == {"prepare_data", "pretrain@0", "evaluate_dense@0", first, second}
    assert before["compare"] >= {"evaluate@0-imp_channels", "evaluate_at_ratio@0-thinet"}


def test_networks_go_to_another_task_by_stages_of_their_own(fresh):
    project = fresh("transfer")
    project.edit(transfer__datasets=["digits"], transfer__methods=["dense", "sap"], transfer__classes=[0, 1])
    before = stages_before(project)
    dense, sap = "transfer@digits-0-dense", "transfer@digits-0-sap"
    assert before["prepare_transfer@digits"] == set()
    assert before[dense] == {"prepare_transfer@digits", "pretrain@0"}
    iterations = {f"prune_iteration@0-sap-iteration{position}" for position in (0, 1)}
    assert before[sap] == {"prepare_transfer@digits", "pretrain@0", *iterations}
    assert before["compare"] >= {dense, sap}
    assert {name: before[name] for name in EXPANDED if name != "compare"} == {
        name: set(earlier) for name, earlier in EXPANDED.items() if name != "compare"
    }


def test_information_is_measured_of_the_chains_that_are_listed(fresh):
    project = fresh("information")
    project.edit(study__methods=["imp_channels"], imposed__ratio_of="imp_channels", imposed__methods=["thinet"])
    project.edit(information__methods=["imp_channels", "thinet_at_imp_channels"])
    before = stages_before(project)
    own = {"prepare_data", "pretrain@0"}
    for chain, stage in (
        ("imp_channels", "prune_iteration@0-imp_channels"),
        ("thinet_at_imp_channels", "prune_at_ratio@0-thinet"),
    ):
        pruning = {f"{stage}-iteration{position}" for position in (0, 1)}
        assert before[f"measure_information@0-{chain}"] == own | pruning
        assert f"measure_information@0-{chain}" in before["compare"]


def declared_code(name):
    """The code that a stage lists, as paths: its script, rooms, of a stage that runs a method all methods."""
    listed = {path for path in GRAPH[name]["deps"] if path.startswith("stages/")}
    if METHOD in listed:
        listed = listed - {METHOD} | {METHOD.replace("${item.method}", method) for method in method_names()}
    return listed


def needed_code(name):
    """The rooms of what the script imports, and of a stage that runs a method of what any method imports."""
    methods = method_names() if METHOD in GRAPH[name]["deps"] else []
    return {str(path.relative_to(ROOT)) for path in rooms(STAGES / f"{script(name)}.py", methods)}


@pytest.mark.parametrize("name", sorted(set(GRAPH) - {"check_params"}))
def test_code_dependencies_are_the_rooms_of_the_imports(name):
    assert declared_code(name) == needed_code(name), "dvc.yaml against imports"


def test_the_judge_of_params_depends_on_all_code():
    assert declared_code("check_params") == {"stages/check_params.py", "stages/prunus"}


def test_a_stage_that_obeys_a_method_depends_on_its_file():
    obeying = {name for name in GRAPH if "methods.${item.method}" in GRAPH[name].get("params", [])}
    listing = {name for name in GRAPH if METHOD in GRAPH[name]["deps"]}
    assert listing == obeying == {"chain_reference", "prune_iteration", "prune_at_ratio"}


def chains(source):
    """The dotted keys a script reads of ``params``, e.g. training.sgd.batch_size; vars(params.x)[...] is x.*."""
    tree = ast.parse(source.read_text())
    inner = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node not in inner:
            names, base = [node.attr], node.value
            while isinstance(base, ast.Attribute):
                names.append(base.attr)
                base = base.value
            if isinstance(base, ast.Name) and base.id == "params":
                found.add(".".join(reversed(names)))
    return found


def constant(source):
    """The script's PARAMS."""
    return next(
        ast.literal_eval(node.value)
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "PARAMS"
    )


def assert_all_are_read(declared, source):
    """Each key is read in the script, and nothing else is."""
    read = chains(source)
    for key in declared:
        fixed = key.split(".{")[0]
        assert any(chain == fixed or chain.startswith(fixed + ".") for chain in read), f"{key} is declared, never read"
    for chain in read:
        assert any(chain == key.split(".{")[0] or chain.startswith(key.split(".{")[0] + ".") for key in declared), (
            f"{chain} is read, not declared"
        )


@pytest.mark.parametrize("name", GRAPH)
def test_declared_params_are_the_ones_read(name):
    source = STAGES / f"{script(name)}.py"
    if name == "check_params":
        assert "params" not in GRAPH[name] and "params.yaml" in GRAPH[name]["deps"]
        return
    declared = [re.sub(r"\$\{item\.(\w+)\}", r"{\1}", key) for key in GRAPH[name]["params"]]
    assert sorted(declared) == sorted(constant(source)), "dvc.yaml against the script's PARAMS"
    assert_all_are_read(declared, source)


def test_an_exports_params_are_the_ones_it_reads():
    source = ROOT / "tools/export.py"
    assert_all_are_read(constant(source), source)
