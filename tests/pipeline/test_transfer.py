"""Networks on another dataset: what is moved, what is drawn afresh, where training starts, and that masks hold."""

import csv
import json
import sys

import pytest
import torch
import yaml

import prepare_transfer
import transfer
from prunus import masks, networks
from prunus.data.dataset import SPLITS, DataError, load
from prunus.networks import checkpoint
from prunus.study import layout

PARAMS = yaml.safe_load((layout.ROOT / layout.PARAMS).read_text())
CPU = torch.device("cpu")


def half_alive(network):
    alive = masks.ones(network)
    return {name: mask & (torch.arange(mask.numel()).view_as(mask) % 2 == 0) for name, mask in alive.items()}


def test_a_network_for_as_many_classes_is_moved_whole():
    before, after = networks.build("lenet5", 1, 8, 5), networks.build("lenet5", 1, 8, 5)
    alive = half_alive(before)
    moved, afresh = transfer.move(before.state_dict(), alive, after)
    assert afresh == []
    assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())
    assert list(moved) == list(alive) and all(moved[name] is alive[name] for name in alive)


@pytest.mark.parametrize(("name", "head"), [("lenet5", "classifier"), ("resnet18", "fc"), ("vit", "classifier")])
def test_for_another_number_of_classes_the_last_layer_is_as_drawn_and_dense(name, head):
    before, after = networks.build(name, 1, 8, 5), networks.build(name, 1, 8, 3)
    drawn = {key: tensor.clone() for key, tensor in after.state_dict().items()}
    alive = half_alive(before)
    moved, afresh = transfer.move(before.state_dict(), alive, after)
    assert sorted(afresh) == [f"{head}.bias", f"{head}.weight"]
    for key, tensor in after.state_dict().items():
        assert torch.equal(tensor, drawn[key] if key in afresh else before.state_dict()[key])
    for key, mask in moved.items():
        assert mask.all() if key == f"{head}.weight" else torch.equal(mask, alive[key])


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A project whose digits 0..4 networks, half pruned by SAP, are to go to the digits 5..9; ``run`` runs a stage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(layout, "ROOT", tmp_path)
    content = dict(PARAMS)
    content["study"] = PARAMS["study"] | {"methods": ["sap"], "seeds": [0]}
    content["study"]["iterations"] = PARAMS["study"]["iterations"][:2]
    content["data"] = PARAMS["data"] | {"classes": [0, 1, 2, 3, 4]}
    content["transfer"] = {"datasets": ["digits"], "methods": ["dense", "sap"], "classes": [5, 6, 7, 8, 9]}
    content["transfer"] |= {"fraction": 0.5, "start": "retrained", "epochs": 2}
    initial, *chain = (networks.build("lenet5", 1, 8, 5) for _ in range(4))
    checkpoint.save(layout.rewind_point(0, "initial"), initial.state_dict())
    for t, network in enumerate(chain):
        alive = half_alive(network) if t else masks.ones(network)
        masks.apply(network, alive)
        checkpoint.save(layout.iteration(0, "sap", t) / layout.NETWORK, network.state_dict(), alive)

    def run(script, *arguments, **settings):
        (tmp_path / layout.PARAMS).write_text(yaml.safe_dump(content | {"transfer": content["transfer"] | settings}))
        monkeypatch.setattr(sys, "argv", [script.__file__, "--dataset", "digits", *arguments])
        script.main()

    return run


def test_the_other_dataset_is_laid_out_by_the_same_rules(study, capsys):
    study(prepare_transfer)
    dataset = load(layout.transfer_dataset("digits"), CPU, SPLITS)
    assert dataset.classes == tuple("56789")
    assert "5 classes, in data/prepared/transfer/digits.safetensors" in capsys.readouterr().out
    sizes = {name: len(split.labels) for name, split in dataset.splits.items()}
    study(prepare_transfer, fraction=1.0)
    whole = load(layout.transfer_dataset("digits"), CPU, SPLITS).splits
    assert sizes["test"] == len(whole["test"].labels)
    assert sizes["train"] == pytest.approx(len(whole["train"].labels) / 2, abs=5)


@pytest.mark.parametrize("start", ["initial", "retrained"])
@pytest.mark.parametrize(("method", "iterations"), [("dense", [0]), ("sap", [1, 2])])
@pytest.mark.parametrize("classes", [[5, 6, 7, 8, 9], [7, 8, 9]])
def test_training_starts_where_it_should_and_pruned_weights_stay_zero(
    study, monkeypatch, start, method, iterations, classes
):
    seen = []

    def watched(network, alive, *arguments, **named):
        seen.append({"start": {name: tensor.clone() for name, tensor in network.state_dict().items()}, "alive": alive})
        outcome = train(network, alive, *arguments, **named)
        seen[-1]["end"] = network
        return outcome

    train = transfer.train
    monkeypatch.setattr(transfer, "train", watched)
    study(prepare_transfer, classes=classes)
    study(transfer, "--seed", "0", "--method", method, classes=classes, start=start)
    assert len(seen) == len(iterations)
    heads = []
    for t, training in zip(iterations, seen, strict=True):
        source = layout.iteration(0, "sap", t) / layout.NETWORK
        weights, alive = checkpoint.load(source, CPU, "")
        if start == "initial":
            weights, _ = checkpoint.load(layout.rewind_point(0, "initial"), CPU, "")
        for name, tensor in training["start"].items():
            if len(classes) == 5 or not name.startswith("classifier"):
                assert torch.equal(tensor, weights[name]), name
        for name, weight in masks.prunable(training["end"]).items():
            if name != "classifier.weight" or len(classes) == 5:
                assert torch.equal(training["alive"][name], alive[name])
            assert (weight[~training["alive"][name]] == 0).all()
            assert not torch.equal(weight, training["start"][name])
        heads.append(training["start"]["classifier.weight"])
    if len(classes) == 3:
        assert all(torch.equal(head, heads[0]) for head in heads)
    with layout.transfer("digits", 0, method).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["iteration"]) for row in rows] == iterations
    for row, training in zip(rows, seen, strict=True):
        assert (row["source_dataset"], row["dataset"], row["start"], row["epochs"]) == ("digits", "digits", start, "2")
        assert float(row["density"]) == masks.density(training["alive"])
        test = load(layout.transfer_dataset("digits"), CPU, ("test",))
        answers = training["end"].eval()(test.normalise(test.splits["test"].images)).argmax(1)
        correct = (answers == test.splits["test"].labels).double().mean().item()
        assert float(row["test_accuracy"]) == pytest.approx(correct)
    record = json.loads(layout.record("transfers", "digits", "seed0", method).read_text())
    assert {"train", "evaluation", "total"} <= set(record["seconds"])
    assert set(record["seeds"]) == {"initialisation", "order"}


def test_what_is_missing_is_named_with_the_command_that_makes_it(study):
    with pytest.raises(DataError, match="`python stages/prepare_transfer.py --dataset digits` makes it"):
        study(transfer, "--seed", "0", "--method", "sap")
