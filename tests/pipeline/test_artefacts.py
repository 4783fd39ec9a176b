"""What a finished study leaves behind: networks, masks, flows, tables and records, as design and README say."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from prunus import checkpoint, networks
from prunus import masks as masking
from prunus.datasets import load
from prunus.flow import gradient_flow, information_flow


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
    assert len(list((runs / "records").rglob("record.json"))) == 9
    assert not list((runs / "seed0").rglob("record.json"))
    record = json.loads((runs / "records/seed0/incop_if/iteration-1/record.json").read_text())
    assert {"train", "flow", "evaluation", "total"} <= set(record["seconds"])
    assert record["git"] and record["threads"] == 1 and record["seeds"]["order"]


def test_the_report_is_one_file_with_its_findings(by_snakemake):
    page = (by_snakemake.root / "reports/report.html").read_text()
    assert "InCoP-IF" in page and 'data-chart="headline"' in page
    assert 'src="http' not in page and 'href="http' not in page
