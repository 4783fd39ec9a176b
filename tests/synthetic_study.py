"""A synthetic study: the files that the computing stages would have left, with numbers a test can foresee."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from prunus.study import layout, schema

PROJECT = Path(__file__).resolve().parents[1]
LAYERS = {"conv1": 150, "conv2": 2400, "fc1": 6000, "fc2": 840}
METHODS = ("one_shot", "lth", "sap", "incop_if", "incop_gf")
REMOVERS = ("mipp", "imp_channels", "thinet", "sosp_h", "oto", "synflow", "iter_snip", "iter_grasp", "thinet_at_mipp")
GROUPS = {"conv1": 10, "conv2": 20, "fc1": 70}
SPREADS = {
    "mipp": (0, 4, 10),
    "thinet_at_mipp": (1, 3, 10),
    "thinet": (1, 2, 7),
}  # channels an iteration removes per group
COLLAPSING = "iter_snip"  # with an empty layer and untrainable at iteration 5
DENSE_ACCURACY = 0.98
FIXED_EPOCHS = 15


def _rates(method):
    """Density kept an iteration, and epochs of retraining by iteration."""
    if method in ("incop_if", "incop_gf"):
        return 0.83, [1, 3, 2, 4, 2, 3, 2]
    return (0.83 if method == "sap" else 0.8), [FIXED_EPOCHS] * 7


def _channels(method, t):
    """Channels removed of each group up to iteration ``t``, and the fraction removed of all 100."""
    spread = SPREADS.get(method, (1, 3, 8)) if method in REMOVERS else (0, 0, 0)
    removed = {group: t * count for group, count in zip(GROUPS, spread, strict=True)}
    return removed, sum(removed.values()) / sum(GROUPS.values())


def _latency(method, iterations):
    """A network with half its channels answers batches in half the time and single images in nine tenths of it."""
    for t in range(1, iterations + 1):
        removed = _channels(method, t)[1]
        for batch, dense, share in (1, 0.001, 1 - 0.2 * removed), (256, 0.08, 1 - removed):
            if removed:
                timed = {"dense_seconds": dense, "compact_seconds": dense * share, "repeats": 9}
                yield {"iteration": t, "batch": batch, **timed}


def _chain(study, seed, method, root):
    generator = np.random.default_rng([seed, *method.encode()])
    kept, epochs = _rates(method)
    flow = method.startswith("incop")
    rows, layers, history, channels = [], [], [], []
    for t in range(len(study["iterations"]) + 1):
        density = kept**t
        for position, (layer, size) in enumerate(LAYERS.items()):
            layer_density = min(1.0, density ** (0.6 + 0.25 * position))
            layers.append(
                {
                    "seed": seed,
                    "method": method,
                    "iteration": t,
                    "layer": layer,
                    "prunable": size,
                    "alive": round(size * layer_density),
                    "density": layer_density,
                    "pq_index": 0.25 * density**0.5 + 0.01 * position,
                    "gini_index": 0.45 * density**0.5,
                    "macs": size * layer_density * 10,
                    "pruned_pq_index": 0.2 * density**0.5 + 0.01 * position,
                    "pruned_gini_index": 0.4 * density**0.5,
                }
            )
        if t == 0:
            continue
        distance = np.nan
        for epoch in range(1, epochs[t - 1] + 1):
            distance = 0.35 / epoch**0.8 + 0.02 * generator.random() if flow else np.nan
            row = {"seed": seed, "method": method, "iteration": t, "epoch": epoch, "train_loss": 1 / (epoch + t)}
            history.append(row | {"validation_accuracy": 0.95, "distance": distance})
        removed, fraction = _channels(method, t)
        for group, size in GROUPS.items():
            keys = {"seed": seed, "method": method, "iteration": t, "group": group}
            channels.append(keys | {"channels": size, "alive": size - removed[group]})
        collapsed, rewind = int(method == COLLAPSING and t == 5), "trained" if flow else "initial"
        accuracy = DENSE_ACCURACY - 0.012 * (1 - density) ** 2 - 0.006 * generator.random() - 0.08 * fraction**2
        accuracy = 0.1 if collapsed else accuracy
        rows.append(
            {
                "dataset": study["dataset"],
                "network": study["network"],
                "seed": seed,
                "method": method,
                "iteration": t,
                "density": density,
                "alive": round(9390 * density),
                "prunable": 9390,
                "channels": sum(GROUPS.values()),
                "channels_removed": fraction,
                "test_accuracy": accuracy,
                "pruned_test_accuracy": 0.9 * accuracy,
                "validation_accuracy": accuracy + 0.001,
                "dense_test_accuracy": DENSE_ACCURACY,
                "macs": int(93900 * density),
                "dense_macs": 93900,
                "compact_macs": round(93900 * (1 - fraction) ** 2),
                "parameters": 10000,
                "compact_parameters": round(10000 * (1 - fraction) ** 2),
                "bytes": 50000,
                "untrainable": collapsed,
                "epochs": epochs[t - 1],
                "stopped_by": "flow" if flow else "fixed",
                "distance": distance,
                "epsilon": 0.2 if flow else np.nan,
                "rewind": rewind,
                "recipe": json.dumps({"scope": "global", "rewind": rewind, "epochs": FIXED_EPOCHS}),
            }
        )
        seconds = {"total": epochs[t - 1] * 0.2 + 1.0, "train": epochs[t - 1] * 0.2, "evaluation": 0.1}
        seconds["prune"] = 0.4 if method in REMOVERS else 0.01
        _record(root / layout.iteration_record(seed, method, t), seconds | ({"flow": 0.05} if flow else {}))
    folder = root / layout.evaluation(seed, method)
    folder.mkdir(parents=True)
    contents = {"iterations": rows, "layers": layers, "history": history, "channels": channels}
    for name, content in contents.items():
        pd.DataFrame(content).to_csv(folder / f"{name}.csv", index=False)
    path = root / layout.evaluation_record(seed, method)
    _record(path, {"total": 1.0, "evaluation": 0.3}, latency=list(_latency(method, len(study["iterations"]))))


def _record(path, seconds, **measured):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {"git": "0123456789abcdef0123456789abcdef01234567", "dirty": False, "device": "cpu", "threads": 1}
    versions = {"python": "3.11.7", "torch": "2.11.0"}
    content = made | {"stage": "a_stage", "versions": versions, "processor": "A Processor", "seconds": seconds}
    content |= measured
    path.write_text(json.dumps(content))


def _builder(root, monkeypatch):
    """``build(seeds, methods, iterations, imposed)`` lays a study out in an empty project; returns its ``study`` block.

    ``imposed``: methods that ran once more at MIPP's ratio.
    """

    def _build(seeds=(0, 1), methods=METHODS, iterations=5, imposed=()):
        raw = yaml.safe_load((PROJECT / layout.PARAMS).read_text())
        raw["study"] = study = {
            "dataset": "digits",
            "network": "lenet5",
            "seeds": list(seeds),
            "methods": list(methods),
            "iterations": [
                {"t": t, "after": f"iteration-{t - 1}" if t > 1 else "../dense"} for t in range(1, iterations + 1)
            ],
        }
        raw["methods"] |= {method: {} for method in methods if method not in raw["methods"]}  # settings are not read
        raw["imposed"] = {"ratio_of": "mipp", "methods": list(imposed)}
        (root / layout.PARAMS).write_text(yaml.safe_dump(raw))
        _record(root / layout.record("data"), {"total": 2.0})
        for seed in seeds:
            _record(root / layout.iteration_record(seed, "dense", 0), {"total": 9.0, "train": 8.0})
            _record(root / layout.record(f"seed{seed}", "reference_flow"), {"total": 1.0, "flow": 0.5})
            _record(root / layout.evaluation_record(seed, "dense"), {"total": 0.5, "evaluation": 0.1})
            for method in [*methods, *(layout.chain(method, "mipp") for method in imposed)]:
                _chain(study, seed, method, root)
        monkeypatch.setattr(layout, "ROOT", root)
        monkeypatch.chdir(root)
        return schema.Study.model_validate(study)

    return _build


@pytest.fixture
def build(tmp_path, monkeypatch):
    return _builder(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def builder():
    """``builder(root, monkeypatch)`` is a ``build`` for fixtures that live longer than a test."""
    return _builder


@pytest.fixture
def run(monkeypatch):
    """``run(script)`` runs a stage script's ``main`` as the command line would, errors in one line included."""

    def _run(script):
        from prunus.run.errors import one_line_errors

        monkeypatch.setattr(sys, "argv", [script.__file__])
        with one_line_errors():
            script.main()

    return _run
