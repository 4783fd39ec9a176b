"""How much of a study's time goes into evaluating its networks: on all test images, on a tenth of them, and before.

A resnet18 on few training images and one epoch, the kind of study in which evaluation weighs most: a tenth of the
training images of the digits, all their test images, each resized; one chain that removes channels, so that networks
are compacted and timed, one that removes weights. The stages run as bare scripts, one after the other, and their start
counts. Seconds are the processor's, which other work on the machine changes little.

With ``--before REVISION`` the study also runs as the code of that revision of git does it. In 913857d every chain
evaluated the dense network once more, and a compacted network was timed in at least six rounds, whatever they took.

python benchmarks/evaluation.py
python benchmarks/evaluation.py --before 913857d
"""

import io
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import partial
from pathlib import Path

import yaml

from harness import Bench, arguments, measure, save
from overlay import chain, merged, text
from prunus.study import layout

METHODS, ITERATIONS = ("imp_channels", "lth"), 2
STUDY = {
    "study": {"dataset": "digits", "network": "resnet18", "seeds": [0], "methods": list(METHODS)},
    "data": {"fraction": 0.1},
    "network": {"side": 20},
    "training": {"epochs": 1, "warmup_steps": 1},
    "flow": {"samples": 64},
    "device": {"accelerator": "cpu"},
    "methods": {name: {"epochs": 1} for name in METHODS},
}
QUICK = {"study": {"network": "lenet5"}, "network": {"side": "native"}}
EVALUATING = ("evaluate_dense", "evaluate")


def code(root: Path, revision: str | None) -> None:
    """Put the stages and params.yaml into ``root``, as they are or as ``revision`` has them."""
    if revision is None:
        shutil.copytree(layout.ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(layout.ROOT / layout.PARAMS, root)
        return
    command = ["git", "archive", "--format=tar", revision, "stages", str(layout.PARAMS)]
    done = subprocess.run(command, cwd=layout.ROOT, capture_output=True)
    if done.returncode:
        sys.exit(f"--before {revision}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(root, filter="data")


def processor_seconds() -> float:
    """Of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commands(root: Path) -> list[tuple[str, ...]]:
    """The study's scripts with their arguments, in an order that works."""
    shared = [(name, "--seed", "0") for name in ("pretrain", "reference_flow", "evaluate_dense")]
    chains = []
    for method in METHODS:
        options = ("--seed", "0", "--method", method)
        chains.append(("chain_reference", *options))
        chains += [("prune_iteration", *options, "--iteration", str(t)) for t in range(1, ITERATIONS + 1)]
        chains.append(("evaluate", *options))
    everything = [("prepare_data",), *shared, *chains]
    return [command for command in everything if (root / f"stages/{command[0]}.py").exists()]


def seconds(bench: Bench, revision: str | None, evaluation: dict) -> dict[str, float]:
    """Processor seconds by script."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        code(root, revision)
        study = merged(yaml.safe_load((root / layout.PARAMS).read_text()), STUDY)
        study = merged(study, QUICK) if bench.quick else study
        study["study"]["iterations"], study["device"]["threads"] = chain(ITERATIONS), bench.threads
        if "evaluation" in study:
            study["evaluation"] |= evaluation
        (root / layout.PARAMS).write_text(text(study))
        spent = {}
        for script, *options in commands(root):
            start = processor_seconds()
            command = [sys.executable, f"stages/{script}.py", *options]
            done = subprocess.run(command, cwd=root, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{' '.join(command)} ended {done.returncode}\n{done.stdout}{done.stderr}")
            spent[script] = spent.get(script, 0.0) + processor_seconds() - start
    return spent


def run(bench: Bench, before: str | None = None) -> None:
    case = f"{'lenet5' if bench.quick else 'resnet18'} on few digits"
    variants = {f"as of {before}": (before, {})} if before else {}
    variants |= {"all test images": (None, {"fraction": 1.0}), "a tenth of them": (None, {"fraction": 0.1})}
    for name, (revision, evaluation) in variants.items():
        spent = seconds(bench, revision, evaluation)
        evaluating = sum(spent.get(script, 0.0) for script in EVALUATING)
        bench.record(case, f"{name}: the study", [sum(spent.values())])
        bench.record(case, f"{name}: evaluation", [evaluating])
        bench.ratio(case, f"{name}: evaluation", f"{name}: the study")


if __name__ == "__main__":
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--before", metavar="REVISION", help="run the study as of this revision of git, too")
    options = parser.parse_args()
    os.chdir(layout.ROOT)
    bench = measure("evaluation", partial(run, before=options.before), options.quick, options.threads)
    if not options.quick:
        print(save([bench]).relative_to(layout.ROOT))
