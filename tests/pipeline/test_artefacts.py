"""What a finished study leaves behind: networks, masks, flows, tables and records, as design and README say."""

import json
import sys
import zipfile
from pathlib import PurePath

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from prunus import masks as masking
from prunus import networks
from prunus.data.dataset import load
from prunus.flow import gradient_flow, information_flow
from prunus.networks import checkpoint
from prunus.sparsity import HoyerAmount


@pytest.fixture(scope="module")
def runs(by_snakemake):
    return by_snakemake.root / "runs"


def iterations(runs, method):
    return [runs / "seed0/dense", *(runs / f"seed0/{method}/iteration-{t}" for t in (1, 2))]


@pytest.mark.parametrize("method", ["sap", "incop_if"])
def test_networks_are_zero_where_pruned_and_masks_nest(runs, method):
    before = None
    for folder in iterations(runs, method):
        tensors = load_file(folder / "network.safetensors")
        masks = {name: tensor.bool() for name, tensor in tensors.items() if name.startswith("mask.")}
        for name, mask in masks.items():
            assert (tensors[name.removeprefix("mask.")][~mask] == 0).all()
            assert before is None or not (mask & ~before[name]).any()
        before = masks
        metrics = json.loads((folder / "metrics.json").read_text())
        alive, total = (
            sum(int(part) for part in parts)
            for parts in zip(*((m.sum(), m.numel()) for m in masks.values()), strict=True)
        )
        assert metrics["density"] == alive / total
        assert metrics["epochs"] == len(pd.read_csv(folder / "history.csv"))
    assert alive < total


def test_reference_flow_is_that_of_the_dense_network_on_its_subset(by_snakemake, runs):
    reference = json.loads((runs / "seed0/reference_flow.json").read_text())
    dataset = load(by_snakemake.root / "data/prepared/dataset.safetensors", "cpu")
    network = networks.build("mlp", *dataset.form)
    masks = checkpoint.load_into(network, runs / "seed0/dense/network.safetensors", torch.device("cpu"), "")
    subset = dataset.sample("train", reference["samples"], reference["subset_seed"])
    images = dataset.normalise(subset.images)
    assert reference["samples"] == 64
    assert information_flow(network, images, "absolute").tolist() == pytest.approx(reference["information"])
    assert information_flow(network, images, "signed").tolist() == pytest.approx(reference["information_signed"])
    assert gradient_flow(network, images, subset.labels, masks).tolist() == pytest.approx(reference["gradient"])
    assert len(reference["information_layers"]) == len(reference["information"]) == 2
    assert reference["gradient_layers"] == list(masking.prunable(network))


def test_rewinding_to_trained_weights_starts_from_them(runs):
    dense = json.loads((runs / "seed0/dense/metrics.json").read_text())
    rewound = pd.read_csv(runs / "seed0/incop_if/iteration-1/history.csv")
    redrawn = pd.read_csv(runs / "seed0/sap/iteration-1/history.csv")
    assert rewound.train_loss[0] < dense["train_loss"] < redrawn.train_loss[0]


def test_comparison_and_metrics(by_snakemake):
    table = pd.read_csv(by_snakemake.root / "reports/tables/comparison.csv")
    first = [
        "dataset",
        "network",
        "seed",
        "method",
        "iteration",
        "density",
        "test_accuracy",
        "epochs",
        "train_seconds",
        "flow_seconds",
    ]
    assert list(table.columns[: len(first)]) == first
    assert list(zip(table.method, table.iteration, strict=True)) == [
        (method, t) for method in ("sap", "incop_if") for t in (1, 2)
    ]
    assert table.density.between(0, 1, inclusive="neither").all()
    metrics = json.loads((by_snakemake.root / "reports/metrics.json").read_text())
    last = table[(table.method == "incop_if") & (table.iteration == 2)]
    assert metrics["incop_if"]["final_test_accuracy"] == pytest.approx(last.test_accuracy.item(), abs=1e-6)
    saved = 1 - table[table.method == "incop_if"].epochs.sum() / table[table.method == "sap"].epochs.sum()
    assert metrics["incop_if"]["epochs_saved_against_sap"] == pytest.approx(saved, abs=1e-6)


def test_records_stand_apart_from_what_computing_depends_on(runs):
    assert len(list((runs / "records").rglob("record.json"))) == 10
    assert not list((runs / "seed0").rglob("record.json"))
    record = json.loads((runs / "records/seed0/incop_if/iteration-1/record.json").read_text())
    assert {"train", "flow", "evaluation", "total"} <= set(record["seconds"])
    assert record["git"] and record["threads"] == 1 and record["seeds"]["order"]


def test_the_report_is_one_file_with_its_findings(reported):
    page = (reported.root / "reports/report.html").read_text()
    assert "InCoP-IF" in page and 'data-chart="headline"' in page
    assert 'src="http' not in page and 'href="http' not in page


def test_an_iteration_obeys_score_index_and_plateau(finished):
    values = {"score": "gradient_flow", "index": "hoyer", "patience": 1, "max_epochs": 4}
    finished.edit(**{f"methods__early_stopping__{key}": value for key, value in values.items()})
    finished.remove("methods.early_stopping", "p", "q", "eta")  # of index: pq
    for command in ("chain_reference.py --seed 0", "prune_iteration.py --seed 0 --iteration 1"):
        finished.run(sys.executable, *f"stages/{command} --method early_stopping".split())
    folder = finished.root / "runs/seed0/early_stopping/iteration-1"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["settings"].items() >= values.items()
    dense = load_file(finished.root / "runs/seed0/dense/network.safetensors")
    weights = [tensor.flatten() for name, tensor in dense.items() if f"mask.{name}" in dense]
    assert metrics["alive"] == sum(map(len, weights)) - HoyerAmount(1.0, 0.9)(torch.cat(weights))
    accuracies = pd.read_csv(folder / "history.csv").validation_accuracy
    best = int(accuracies.idxmax())
    assert metrics["epochs"] == min(best + 2, 4)
    assert metrics["stopped_by"] == ("plateau" if metrics["epochs"] == best + 2 else "cap")


def test_dvc_plots_are_filled_with_the_tables(by_snakemake):
    shown = json.loads(by_snakemake.run("dvc", "plots", "show", "--json"))
    assert not shown.get("errors")
    rows = {"accuracy_against_density": 4, "epochs_per_iteration": 4, "distance_to_reference": None}
    assert set(shown["data"]) == set(rows)
    for name, count in rows.items():
        content = shown["data"][name][0]["content"]
        text = content if isinstance(content, str) else json.dumps(content)
        assert "<DVC_METRIC" not in text, name
        values = json.loads(text)["data"]["values"]
        assert count is None or len(values) == count
        assert {row["method"] for row in values} == {"sap", "incop_if"}
    assert {row["epsilon"] for row in values} == {"", "0.1"}


def test_metrics_of_a_study_are_few(by_snakemake):
    shown = json.loads(by_snakemake.run("dvc", "metrics", "show", "--json"))[""]["data"]["reports/metrics.json"]["data"]
    keys = {"final_test_accuracy", "final_density", "total_epochs", "total_seconds"}
    assert {method: set(own) for method, own in shown.items()} == dict.fromkeys(
        ("sap", "incop_if"), keys | {"epochs_saved_against_sap"}
    )
    rows = by_snakemake.run("dvc", "metrics", "diff", "--all", "--no-path").splitlines()
    assert len([row for row in rows if row.startswith(("sap.", "incop_if."))]) == 10
    assert max(map(len, rows)) < 100


def test_snakemake_reports_what_has_a_caption(by_snakemake, tmp_path):
    captions = {path.stem for path in (by_snakemake.root / "reports/captions").glob("*.rst")} - {"workflow"}
    project = by_snakemake.copy(tmp_path / "project")
    project.run("snakemake", "--report", str(tmp_path / "results.zip"))
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        files = {PurePath(name).stem for name in archive.namelist() if "/data/raw/" in name}
    assert files == captions
