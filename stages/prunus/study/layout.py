"""The path of every file of a study, relative to the project's root. No other module builds such paths."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

PARAMS = Path("params.yaml")
RAW_DATA = Path("data/raw")
DATASET = Path("data/prepared/dataset.safetensors")
TRANSFER_DATASETS = Path("data/prepared/transfer")
RUNS = Path("runs")
RECORDS = RUNS / "records"
CHECKED = RUNS / "checked.txt"
TABLES = Path("reports/tables")
FIGURES = Path("reports/figures")
METRICS = Path("reports/metrics.json")
REPORT = Path("reports/report.html")
SWEEP_REPORT = Path("reports/sweep.html")
EXPORTS = Path("exports")

NETWORK = "network.safetensors"
PRUNED = "pruned.safetensors"  # the weights that pruning itself changed; empty for most methods
HISTORY = "history.csv"
METRICS_NAME = "metrics.json"
CHECKPOINT = "checkpoint.safetensors"


def dense(seed: int) -> Path:
    """Folder of the dense network: its weights as drawn (initial), after the warm-up steps, and trained (network)."""
    return RUNS / f"seed{seed}" / "dense"


def rewind_point(seed: int, rewind: str) -> Path:
    """The dense weights from which survivors restart; ``rewind`` is initial, warmup or trained."""
    return dense(seed) / {"initial": "initial.safetensors", "warmup": "warmup.safetensors", "trained": NETWORK}[rewind]


def reference_flow(seed: int) -> Path:
    return RUNS / f"seed{seed}" / "reference_flow.json"


def chain_reference(seed: int, method: str) -> Path:
    """The part of the reference flow that a method's chains are compared with."""
    return RUNS / f"seed{seed}" / "references" / f"{method}.json"


def iteration(seed: int, method: str, t: int) -> Path:
    """Folder of iteration ``t`` of a chain; iteration 0 is the dense network."""
    return dense(seed) if t == 0 else RUNS / f"seed{seed}" / method / f"iteration-{t}"


def chain(method: str, ratio_of: str | None = None) -> str:
    """The name of a chain: the method, with ``_at_`` and the other method if that one's ratio is imposed on it."""
    return f"{method}_at_{ratio_of}" if ratio_of else method


def of_chain(name: str) -> tuple[str, str | None]:
    """The method of a chain and the method whose ratio is imposed on it, or None: the inverse of ``chain``."""
    method, _, ratio_of = name.partition("_at_")
    return method, ratio_of or None


def evaluation(seed: int, method: str) -> Path:
    """Folder of a chain's evaluation: ``iterations.csv``, ``layers.csv``, ``history.csv`` and, if measured,
    ``information.csv``. With ``dense`` that of the seed's dense network: ``metrics.json`` and ``layers.csv``.
    """
    return RUNS / "evaluations" / f"seed{seed}" / method


def transfer_dataset(name: str) -> Path:
    """The prepared file of a dataset that networks are transferred to."""
    return TRANSFER_DATASETS / f"{name}.safetensors"


def transfer(dataset: str, seed: int, method: str) -> Path:
    """Table of a chain's networks on another dataset; it lies in the evaluations, on which ``compare`` depends."""
    return RUNS / "evaluations" / "transfers" / dataset / f"seed{seed}" / f"{method}.csv"


def pretrain_command(seed: int) -> str:
    return f"python stages/pretrain.py --seed {seed}"


def reference_command(seed: int) -> str:
    return f"python stages/reference_flow.py --seed {seed}"


def chain_reference_command(seed: int, method: str) -> str:
    return f"python stages/chain_reference.py --seed {seed} --method {method}"


def prune_command(seed: int, method: str, t: int, ratio_of: str | None = None) -> str:
    """The command that makes an iteration of ``chain(method, ratio_of)``."""
    options = f" --ratio-of {ratio_of}" if ratio_of else ""
    return f"python stages/prune_iteration.py --seed {seed} --method {method} --iteration {t}{options}"


def evaluate_command(seed: int, chain: str) -> str:
    """The command that evaluates a chain, or the dense network of a seed."""
    if chain == "dense":
        return f"python stages/evaluate_dense.py --seed {seed}"
    method, ratio_of = of_chain(chain)
    options = f" --ratio-of {ratio_of}" if ratio_of else ""
    return f"python stages/evaluate.py --seed {seed} --method {method}{options}"


def information_command(seed: int, chain: str) -> str:
    return f"python stages/measure_information.py --seed {seed} --method {chain}"


def transfer_command(dataset: str, seed: int, chain: str) -> str:
    return f"python stages/transfer.py --dataset {dataset} --seed {seed} --method {chain}"


def export(dataset: str, network: str, seed: int, chain: str, t: int, suffix: str) -> Path:
    """The default path of an exported network; iteration 0 is called dense, whatever the chain."""
    return EXPORTS / f"{dataset}-{network}-seed{seed}-{f'{chain}-{t}' if t else 'dense'}{suffix}"


def evaluation_record(seed: int, chain: str) -> Path:
    """The run record of the evaluation of a chain or of the dense network (not of its training)."""
    return record(f"seed{seed}", "evaluate_dense" if chain == "dense" else f"{chain}/evaluate")


def record(*parts: str) -> Path:
    """The run record of one stage, e.g. ``record("seed0", "sap", "iteration-1")``: what made its output, and times."""
    return RECORDS.joinpath(*parts, "record.json")


def unfinished(record: Path) -> Path:
    """Folder for what a stage that did not end leaves for its next run; ``record`` is the stage's run record."""
    return RUNS / "unfinished" / record.parent.relative_to(RECORDS)


def failure(record: Path) -> Path:
    """Why the stage of ``record`` failed in its last run: kind, message and, if a layer is empty, density."""
    return unfinished(record) / "failure.json"


def iteration_record(seed: int, method: str, t: int) -> Path:
    return record(f"seed{seed}", "dense" if t == 0 else f"{method}/iteration-{t}")
