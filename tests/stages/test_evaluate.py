"""The stages that evaluate, on a study of two chains, one of which removes channels."""

import hashlib
import itertools
import json
import sys
from collections import Counter
from contextlib import contextmanager

import pandas as pd
import pytest
import torch
import yaml
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import chain_reference
import evaluate
import evaluate_dense
import prepare_data
import pretrain
import prune_iteration
import reference_flow
from prunus import masks as masking
from prunus import networks
from prunus.evaluation.images import load_test
from prunus.evaluation.layers import layer_table
from prunus.evaluation.macs import multiply_accumulates
from prunus.networks import checkpoint
from prunus.run.errors import StageError
from prunus.study import layout
from prunus.training.accuracy import accuracy

# The stages, on a study of two chains, one of which removes channels

CHAINS = ("imp_channels", "sap")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """``run(script, *arguments)`` in a project in which all but the evaluations has run; and its params.yaml."""
    root = tmp_path_factory.mktemp("evaluation")
    content = yaml.safe_load((layout.ROOT / layout.PARAMS).read_text())
    content["study"] |= {"network": "lenet5", "seeds": [0], "methods": list(CHAINS)}
    content["study"]["iterations"] = content["study"]["iterations"][:2]
    content["training"]["epochs"], content["device"]["accelerator"], content["flow"]["samples"] = 3, "cpu", 64
    for method in CHAINS:
        content["methods"][method]["epochs"] = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(layout, "ROOT", root)

        def run(script, *arguments):
            patch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
            script.main()

        layout.PARAMS.write_text(yaml.safe_dump(content))
        run(prepare_data)
        run(pretrain, "--seed", 0)
        run(reference_flow, "--seed", 0)
        for method in CHAINS:
            run(chain_reference, "--seed", 0, "--method", method)
        for method, t in itertools.product(CHAINS, (1, 2)):
            run(prune_iteration, "--seed", 0, "--method", method, "--iteration", t)
        yield run, content


@pytest.fixture
def evaluated(study):
    """``evaluated(fraction)`` evaluates the study on that share of its test images."""
    run, content = study

    def evaluated(fraction, latency_seconds=0.0):
        content["evaluation"] = {"fraction": fraction, "latency_seconds": latency_seconds}
        layout.PARAMS.write_text(yaml.safe_dump(content))
        run(evaluate_dense, "--seed", 0)
        for method in CHAINS:
            run(evaluate, "--seed", 0, "--method", method)

    return evaluated


def iterations(method):
    return pd.read_csv(layout.evaluation(0, method) / "iterations.csv")


def network_at(method, t):
    """The network that iteration ``t`` left, 0 the dense one, and the masks."""
    network = networks.build("lenet5", *load_test("cpu", 1.0, 0).form)
    path = layout.iteration(0, method, t) / layout.NETWORK
    return network, checkpoint.load_into(network, path, torch.device("cpu"), "")


def identity(network):
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in network.state_dict().values())).digest()


@contextmanager
def passes():
    """How often each network has seen each image, by weights and pixels; times what it is shown without pixels."""
    counted = Counter()

    def count(module, inputs):
        if isinstance(module, nn.Sequential) and inputs[0].any():
            counted.update((identity(module), image.numpy().tobytes()) for image in inputs[0])

    hook = register_module_forward_pre_hook(count)
    try:
        yield counted
    finally:
        hook.remove()


def test_every_network_passes_every_test_image_once_and_the_dense_one_once_for_all_chains(study, evaluated):
    run, _ = study
    with passes() as counted:
        evaluated(1.0, latency_seconds=0.1)
    data = load_test("cpu", 1.0, 0)
    images = Counter(image.numpy().tobytes() for image in data.normalise(data.splits["test"].images))
    retrained, just_pruned = [("dense", 0), *itertools.product(CHAINS, (1, 2))], []
    for method, t in retrained[1:]:
        before, (_, alive) = network_at(method, t - 1)[0], network_at(method, t)
        masking.apply(before, alive)
        just_pruned.append(before)
    for network in [network_at(*of)[0] for of in retrained] + just_pruned:
        identifier = identity(network)
        assert Counter({image: counted.pop((identifier, image), 0) for image in images}) == images
    # The rest are the compacted networks, whose answers are compared.
    compacted = {identifier for identifier, image in counted if image in images}
    assert (iterations("imp_channels").channels_removed > 0).all()
    assert len(compacted) == sum((iterations(method).channels_removed > 0).sum() for method in CHAINS)
    assert all(
        sum((identifier, image) in counted for image in images) <= evaluate.CHECKED_IMAGES for identifier in compacted
    )
    assert all(counted[identifier, image] <= times for image, times in images.items() for identifier in compacted)


def test_a_share_of_the_test_images_is_the_same_for_all_networks_and_recorded(study, evaluated):
    evaluated(1.0)
    every = {method: iterations(method) for method in CHAINS}
    evaluated(0.25)
    part, all_images = load_test("cpu", 0.25, 0), load_test("cpu", 1.0, 0)
    sizes = [int(0.25 * size + 0.5) for size in all_images.splits["test"].labels.bincount().tolist()]
    assert part.splits["test"].labels.bincount().tolist() == sizes
    metrics = json.loads((layout.evaluation(0, "dense") / "metrics.json").read_text())
    assert metrics["test_images"] == sum(sizes)
    assert metrics["test_accuracy"] == accuracy(network_at("sap", 0)[0], part, "test")
    assert json.loads(layout.evaluation_record(0, "dense").read_text())["test_images"] == sum(sizes)
    for method in CHAINS:
        table, record = iterations(method), json.loads(layout.evaluation_record(0, method).read_text())
        assert record["test_images"] == sum(sizes)
        assert table.dense_test_accuracy.tolist() == [metrics["test_accuracy"]] * 2
        assert table.test_accuracy.tolist() == [accuracy(network_at(method, t)[0], part, "test") for t in (1, 2)]
        same = [name for name in table if not name.endswith("test_accuracy")]
        pd.testing.assert_frame_equal(table[same], every[method][same])
        assert not table.equals(every[method])


def test_the_dense_layers_are_the_first_rows_of_every_chain(study, evaluated):
    evaluated(1.0)
    dense_layers = pd.read_csv(layout.evaluation(0, "dense") / "layers.csv")
    network, alive = network_at("sap", 0)
    macs = multiply_accumulates(network, load_test("cpu", 1.0, 0).shape, alive)
    pd.testing.assert_frame_equal(dense_layers, pd.DataFrame(layer_table(network, alive, macs)))
    for method in CHAINS:
        layers = pd.read_csv(layout.evaluation(0, method) / "layers.csv").query("iteration == 0")
        pd.testing.assert_frame_equal(layers[list(dense_layers)], dense_layers)
        assert layers.pruned_pq_index.tolist() == dense_layers.pq_index.tolist()


def test_a_dense_evaluation_on_other_images_is_refused_in_one_line(study, evaluated):
    run, content = study
    evaluated(1.0)
    content["evaluation"]["fraction"] = 0.5
    layout.PARAMS.write_text(yaml.safe_dump(content))
    message = (
        r"of lenet5 on 359 images of digits, the study is lenet5 on \d+ of digits; `python stages/evaluate_dense.py"
    )
    with pytest.raises(StageError, match=message):
        run(evaluate, "--seed", 0, "--method", "sap")


def test_a_compacted_network_that_answers_differently_is_refused(study, evaluated, monkeypatch):
    evaluated(1.0)
    run, compact = study[0], evaluate.channels.compact

    def wrong(*arguments):
        network = compact(*arguments)
        with torch.no_grad():
            next(network.parameters())[0] += 0.1
        return network

    monkeypatch.setattr(evaluate.channels, "compact", wrong)
    with pytest.raises(StageError, match="imp_channels iteration 1: the compacted network answers differently"):
        run(evaluate, "--seed", 0, "--method", "imp_channels")
