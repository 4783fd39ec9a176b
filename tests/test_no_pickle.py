"""No stage and no tool unpickles anything or executes data: what is allowed to read files is listed, per module."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path
    for folder in ("stages", "studies", "tools", "benchmarks", "docs")
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
# What torchvision's reader of published weights may raise; and the reader of a file that the user has exported.
ALLOWED = {
    "stages/prunus/networks/pretrained.py": {"pickle.UnpicklingError"},
    "tools/exporting.py": {"torch.export.load"},
    "tools/warm.py": {"compile", "exec"},  # of the script that was called
}
FORBIDDEN = {"eval", "exec", "compile", "__import__"}
LOADERS = {
    "torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.export.load",
    "np.load", "numpy.load", "np.loads", "pd.read_pickle", "pandas.read_pickle", "pd.read_hdf",
    "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.load",
    "yaml.UnsafeLoader", "yaml.FullLoader", "yaml.Loader", "os.system", "os.popen",
}  # fmt: skip


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def found(source: str) -> set[str]:
    """What ``source`` uses of all that is forbidden."""
    uses = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            uses |= {alias.name for alias in node.names if alias.name.split(".")[0] in UNPICKLERS}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            uses |= {name for name in names if node.module.split(".")[0] in UNPICKLERS or name in LOADERS}
        elif isinstance(node, ast.Attribute):
            name = dotted(node)
            uses |= {name} if name in LOADERS or name.split(".")[0] in UNPICKLERS else set()
        elif isinstance(node, ast.Call):
            uses |= {node.func.id} if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN else set()
            allowing = {"allow_pickle": True, "weights_only": False, "shell": True}
            for keyword in node.keywords:
                if keyword.arg in allowing and getattr(keyword.value, "value", True) == allowing[keyword.arg]:
                    uses.add(keyword.arg)
    return uses


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_neither_unpickles_nor_executes_data(path):
    name = str(path.relative_to(ROOT))
    allowed = ALLOWED.get(name, set())
    assert found(path.read_text(encoding="utf-8")) - allowed - {use.split(".")[0] for use in allowed} == set()


@pytest.mark.parametrize(
    ("source", "use"),
    [
        ("import pickle", "pickle"),
        ("import joblib as j", "joblib"),
        ("from pickle import loads", "pickle.loads"),
        ("from torch import load", "torch.load"),
        ("import torch\ntorch.load(path)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("weights.get_state_dict(weights_only=False)", "weights_only"),
        ("yaml.load(text, yaml.UnsafeLoader)", "yaml.UnsafeLoader"),
        ("eval(text)", "eval"),
        ("subprocess.run(line, shell=True)", "shell"),
    ],
)
def test_the_scan_finds_it(source, use):
    assert use in found(source)


def test_evaluation_mode_is_not_evaluation():
    assert found("network.eval()\nre.compile('a')\nnp.load(path, allow_pickle=False)") == {"np.load"}
