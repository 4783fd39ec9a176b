"""What the tools use of DVC and Snakemake beyond their documents. An upgrade that drops a name fails here, in words.

DVC documents its commands, files and ``dvc.api``; Snakemake its commands, its language and its logger's interface.
"""

import ast
import dataclasses
import importlib.util
import inspect
import re
from importlib.metadata import version

import pytest
from dvc.dvcfile import Lockfile
from dvc.repo import Repo
from snakemake import api  # first: it imports the next two in the order that works
from snakemake.scheduling.job_scheduler import JobScheduler

import warm
from prunus.study.layout import ROOT

# Per file that uses them: what is imported, and the attributes of what is imported.
OF_DVC = {
    "tools/lockfile.py": """
        dvc.dvcfile.Lockfile dvc.dvcfile.Lockfile._load_yaml dvc.dvcfile.Lockfile.dump_stages
        dvc.dvcfile.Lockfile.validate dvc.dvcfile.Lockfile.relpath dvc.dvcfile.Lockfile.exists
        dvc.exceptions.DvcException dvc.stage.serialize.to_lockfile dvc.utils.serialize.dumps_yaml
        dvc.utils.serialize.loads_yaml""",
    "tools/one_stage.py": """
        dvc.dvcfile.Lockfile dvc.rwlock.rwlock dvc.cli.main dvc.exceptions.DvcException dvc.stage.run.cmd_run
        dvc.stage.PipelineStage.save_deps dvc.utils.serialize.LOADERS""",
    "tools/dvc_status.py": """
        dvc.repo.Repo dvc.repo.Repo.index dvc.dvcfile.Lockfile.load dvc.rwlock.rwlock dvc.stage.PipelineStage
        dvc.stage.PipelineStage.addressing dvc.dependency.param.ParamsDependency dvc.dependency.param.read_param_file
        dvc.dirs.site_cache_dir dvc.exceptions.DvcException dvc.utils.serialize.loads_yaml
        dvc_data.hashfile.build.build dvc_data.hashfile.hash.hash_file dvc_data.hashfile.hash_info.HashInfo""",
    "tools/sweep_report.py": "dvc.repo.Repo",
}
# What only an instance has: this project's repo, a stage of it, that stage's output, dependency and parameters.
OF_INSTANCES = {
    "repo": """fs state tmp_dir root_dir index.graph index.graph.successors cache.legacy.path cache.local.oid_to_path
        dvcignore scm_context.track_file""",
    "stage": "name addressing cmd outs deps params",
    "out": "fs_path hash_info checkout",
    "dep": "def_path exists changed_checksum",
    "param": "def_path params",
    "lockfile": "path relpath repo",
}
# Of Snakemake: the Snakefile alone uses them.
Workflow = api.Workflow
OF_SNAKEMAKE = {
    Workflow: "basedir cores nodes touch dryrun executor_plugin local_exec is_main_process scheduler",
    JobScheduler: "job_rate_limiter",
}


def missing(package, name, used_by):
    return f"{package} {version(package)} has no {name} any more; {used_by} uses it"


def found(dotted):
    """Whether there is what ``dotted`` names: a module, what it holds, or an attribute of that."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        return has(thing, parts[end:])
    return False


def has(thing, names):
    for name in names:
        if not hasattr(thing, name):
            return False
        thing = getattr(thing, name)
    return True


@pytest.mark.parametrize("path", OF_DVC)
def test_dvc_has_what_is_imported_of_it(path):
    gone = [missing("dvc", name, path) for name in OF_DVC[path].split() if not found(name)]
    assert not gone, "\n".join(gone)


def test_dvc_s_objects_have_what_is_asked_of_them(monkeypatch):
    monkeypatch.chdir(ROOT)
    with Repo() as repo:
        stage = next(stage for stage in repo.index.stages if stage.name == "prepare_data")
        things = {"repo": repo, "stage": stage, "out": stage.outs[0], "param": stage.params[0]}
        things |= {
            "dep": next(dep for dep in stage.deps if dep not in stage.params),
            "lockfile": stage.dvcfile._lockfile,
        }
        gone = [
            missing("dvc", f"{what}.{name}", "tools/")
            for what, names in OF_INSTANCES.items()
            for name in names.split()
            if not has(things[what], name.split("."))
        ]
    assert not gone, "\n".join(gone)


def test_dvc_calls_what_is_replaced_in_it_as_before():
    """By the names and in the order in which the replacements take them."""
    from dvc import rwlock
    from dvc.stage import PipelineStage

    parameters = {
        rwlock.rwlock: ["tmp_dir", "fs", "cmd", "read", "write", "hardlink"],
        Lockfile._load_yaml: ["self", "kwargs"],
        Lockfile.dump_stages: ["self", "stages", "kwargs"],
        PipelineStage.save_deps: ["self", "allow_missing"],
    }
    changed = [
        f"dvc {version('dvc')}: {function.__qualname__} takes {list(inspect.signature(function).parameters)} now"
        for function, expected in parameters.items()
        if list(inspect.signature(function).parameters) != expected
    ]
    assert not changed, "\n".join(changed)


def imported(path):
    """Dotted names that a file imports of DVC."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and re.match(r"dvc(_data)?(\.|$)", node.module or ""):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_list_is_complete_and_no_other_tool_imports_dvc():
    for path in sorted((ROOT / "tools").glob("*.py")):
        listed = OF_DVC.get(str(path.relative_to(ROOT)), "").split()
        for name in imported(path):
            assert any(entry == name or entry.startswith(f"{name}.") for entry in listed), f"{path.name}: {name}"
    assert not re.search(r"^\s*(from|import) dvc(_data|\.|\s)", (ROOT / "Snakefile").read_text(), re.MULTILINE)


def test_what_the_warm_process_imports_is_there():
    """A name that is gone would only make stages slower."""
    names = f"{warm.FIRST} {warm.LATER}".split()
    assert [name for name in names if importlib.util.find_spec(name) is None] == []


def test_snakemake_has_what_the_snakefile_uses():
    gone = []
    for kind, names in OF_SNAKEMAKE.items():
        source = inspect.getsource(kind)
        fields = {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
        for name in names.split():
            if not (hasattr(kind, name) or name in fields or f"self.{name} =" in source):
                gone.append(missing("snakemake", f"{kind.__name__}.{name}", "the Snakefile"))
    assert not gone, "\n".join(gone)


def test_the_list_of_snakemake_s_names_is_complete():
    used = set(re.findall(r"\bworkflow\.(?!rst)(\w+)", (ROOT / "Snakefile").read_text()))
    assert used == set(OF_SNAKEMAKE[Workflow].split())
