"""A synthetic study: the files that the computing stages would have left, with numbers a test can foresee."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from prunus import layout, params

PROJECT = Path(__file__).resolve().parents[2]
LAYERS = {"conv1": 150, "conv2": 2400, "fc1": 6000, "fc2": 840}
METHODS = ("one_shot", "lth", "sap", "incop_if", "incop_gf")
DENSE_ACCURACY = 0.98
FIXED_EPOCHS = 15


def _rates(method):
    """Density kept an iteration, and epochs of retraining by iteration."""
    if method in ("incop_if", "incop_gf"):
        return 0.83, [1, 3, 2, 4, 2, 3, 2]
    return (0.83 if method == "sap" else 0.8), [FIXED_EPOCHS] * 7


def _chain(study, seed, method, root):
    generator = np.random.default_rng([seed, *method.encode()])
    kept, epochs = _rates(method)
    flow = method.startswith("incop")
    rows, layers, history = [], [], []
    for t in range(len(study["iterations"]) + 1):
        density = kept**t
        for position, (layer, size) in enumerate(LAYERS.items()):
            own = min(1.0, density ** (0.6 + 0.25 * position))
            layers.append(
                {
                    "seed": seed,
                    "method": method,
                    "iteration": t,
                    "layer": layer,
                    "prunable": size,
                    "alive": round(size * own),
                    "density": own,
                    "pq_index": 0.25 * density**0.5 + 0.01 * position,
                    "gini_index": 0.45 * density**0.5,
                    "macs": size * own * 10,
                }
            )
        if t == 0:
            continue
        distance = np.nan
        for epoch in range(1, epochs[t - 1] + 1):
            distance = 0.35 / epoch**0.8 + 0.02 * generator.random() if flow else np.nan
            row = {"seed": seed, "method": method, "iteration": t, "epoch": epoch, "train_loss": 1 / (epoch + t)}
            history.append(row | {"validation_accuracy": 0.95, "distance": distance})
        accuracy = DENSE_ACCURACY - 0.012 * (1 - density) ** 2 - 0.006 * generator.random()
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
                "test_accuracy": accuracy,
                "validation_accuracy": accuracy + 0.001,
                "dense_test_accuracy": DENSE_ACCURACY,
                "macs": int(93900 * density),
                "dense_macs": 93900,
                "bytes": 50000,
                "epochs": epochs[t - 1],
                "stopped_by": "flow" if flow else "fixed",
                "distance": distance,
                "epsilon": 0.2 if flow else np.nan,
                "rewind": "trained" if flow else "initial",
                "recipe": f"scope global, rewind {'trained' if flow else 'initial'}, epochs {FIXED_EPOCHS}",
            }
        )
        seconds = {"total": epochs[t - 1] * 0.2 + 1.0, "train": epochs[t - 1] * 0.2, "evaluation": 0.1}
        _record(root / layout.iteration_record(seed, method, t), seconds | ({"flow": 0.05} if flow else {}))
    folder = root / layout.evaluation(seed, method)
    folder.mkdir(parents=True)
    for name, content in {"iterations": rows, "layers": layers, "history": history}.items():
        pd.DataFrame(content).to_csv(folder / f"{name}.csv", index=False)
    _record(root / layout.record(f"seed{seed}", f"{method}/evaluate"), {"total": 1.0, "evaluation": 0.3})


def _record(path, seconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {"git": "0123456789abcdef0123456789abcdef01234567", "dirty": False, "device": "cpu", "threads": 1}
    versions = {"python": "3.11.7", "torch": "2.11.0"}
    content = made | {"stage": "a_stage", "versions": versions, "processor": "A Processor", "seconds": seconds}
    path.write_text(json.dumps(content))


@pytest.fixture
def build(tmp_path, monkeypatch):
    """``build(seeds, methods, iterations)`` lays a study out in an empty project and returns its ``study`` block."""

    def _build(seeds=(0, 1), methods=METHODS, iterations=5):
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
        (tmp_path / layout.PARAMS).write_text(yaml.safe_dump(raw))
        _record(tmp_path / layout.record("data"), {"total": 2.0})
        for seed in seeds:
            _record(tmp_path / layout.iteration_record(seed, "dense", 0), {"total": 9.0, "train": 8.0})
            _record(tmp_path / layout.record(f"seed{seed}", "reference_flow"), {"total": 1.0, "flow": 0.5})
            for method in methods:
                _chain(study, seed, method, tmp_path)
        monkeypatch.setattr(layout, "ROOT", tmp_path)
        monkeypatch.chdir(tmp_path)
        return params.Study.model_validate(study)

    return _build


@pytest.fixture
def run(monkeypatch):
    """``run(script)`` runs a stage script's ``main`` as the command line would, errors in one line included."""

    def _run(script):
        from prunus.runtime import one_line_errors

        monkeypatch.setattr(sys, "argv", [script.__file__])
        with one_line_errors():
            script.main()

    return _run
