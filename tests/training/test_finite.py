"""What is not finite, or cannot be computed at all, ends its stage in one line that names what was measured; a count
that is not the one asked for does as well."""

import json
import math
from dataclasses import replace
from importlib import import_module

import pytest
import torch
import yaml
from torch import nn

from prune_iteration import asked, say_if_nothing_goes
from prunus import channels, flow, methods, networks
from prunus import masks as masking
from prunus.data.dataset import Dataset, Split
from prunus.evaluation import layers
from prunus.information.estimate import TooFewSamples
from prunus.methods import oto, thinet
from prunus.networks.inspect import norm_of_one_value, why_not_finite
from prunus.pruning import scores
from prunus.pruning.candidates import Candidates
from prunus.pruning.ranked import Ranked
from prunus.run import files
from prunus.run.device import Clock
from prunus.run.errors import StageError
from prunus.sparsity import FractionAmount
from prunus.study import layout, params, schema
from prunus.study.schema import Sgd
from prunus.training import accuracy, loop
from prunus.training.loop import refuse_unanswered, train
from prunus.training.stopping import FixedEpochs

PROJECT = params.read()
SGD = Sgd(
    batch_size=16,
    learning_rate=0.01,
    momentum=0.0,
    nesterov=False,
    weight_decay=0.0,
    schedule="constant",
    clip_norm=0.0,
)


def settings(method, **changes):
    return PROJECT.methods[method].model_copy(update=changes)


def refusal(call, *args, kind="not_finite", **options):
    with pytest.raises(StageError) as raised:
        call(*args, **options)
    message = str(raised.value)
    assert raised.value.kind == kind and message.isprintable() and len(message) < 700
    return message


def data(n=66, images=None):
    labels = torch.arange(n) % 3
    images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8) if images is None else images
    whole = Split(images, labels)
    splits = {"train": whole, "validation": whole[torch.arange(min(n, 12))]}
    return Dataset(splits, torch.full((1,), 0.5), torch.full((1,), 0.25), ("a", "b", "c"))


def candidates(network, n=66):
    dataset = data(n)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    sample = dataset.normalise(dataset.splits["train"].images), dataset.splits["train"].labels
    return Candidates(network, masking.ones(network), 1, dataset, 0, lambda point: state, sample)


@pytest.fixture
def lagging(small_network):
    """Batch norm's running statistics are those of a network whose first layer was 1e18 times smaller: in eval mode
    activations overflow, with the statistics of the batch nothing does."""
    with torch.no_grad():
        small_network[0].weight.mul_(1e18)
        small_network[5].weight.mul_(1e25)
        small_network[7].weight.mul_(1e-25)
    return small_network.eval()


# --- what is measured ------------------------------------------------------------------------------------------------


def test_running_statistics_that_lag_are_told_from_weights_that_are_too_large(lagging):
    images, labels = torch.randn(20, 1, 8, 8), torch.arange(20) % 3
    state = {name: tensor.clone() for name, tensor in lagging.state_dict().items()}
    said = why_not_finite(lagging, images, labels)
    assert said.startswith(
        "with the running statistics of batch norm its activations are not finite from 5 on, with those"
    )
    assert "train it for more steps" in said
    lagging.train()
    assert "running" not in why_not_finite(lagging, images, labels)
    assert all(torch.equal(tensor, state[name]) for name, tensor in lagging.state_dict().items())
    assert lagging.training and not any(module._forward_hooks for module in lagging.modules())
    lagging.eval()
    with torch.no_grad():
        lagging[5].weight.mul_(1e20)  # now they overflow whatever normalises what they read
    assert why_not_finite(lagging, images, labels) == "its activations are not finite from 5 on"


def test_a_gradient_that_overflows_is_told_from_what_is_computed_from_it():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 3)).eval()
    images, labels = torch.full((4, 1, 8, 8), 1e5), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        network[1].weight.zero_(), network[1].bias.zero_(), network[2].weight.fill_(3e38), network[2].bias.zero_()
        network[2].weight[0].neg_()
    assert (
        why_not_finite(network, images, labels)
        == "its largest answer is 0 and the gradient of the loss is not finite in 1.weight"
    )
    assert "the gradient" not in why_not_finite(network, images)
    with torch.no_grad():
        network[2].weight.fill_(1.0)
    assert why_not_finite(network, images, labels).endswith(
        "the gradient of the loss is finite: the numbers overflow in what is computed from them"
    )


def test_which_norm_has_one_value_depends_on_network_and_image(small_network):
    image = torch.randn(1, 1, 8, 8)
    assert norm_of_one_value(small_network, image) is None  # its maps have 8 x 8 entries
    single = nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    assert norm_of_one_value(single, image) == "1"
    assert single.training and not any(module._forward_pre_hooks for module in single.modules())
    assert norm_of_one_value(networks.build("resnet18", 1, 8, 3), image).startswith("layer4.")
    assert norm_of_one_value(networks.build("resnet18", 1, 32, 3), torch.randn(1, 1, 32, 32)) is None


# --- scores and counts -----------------------------------------------------------------------------------------------


def ranked(score, fraction=0.5, structure="weight"):
    return Ranked(score=score, amount=FractionAmount(fraction), scope="global", structure=structure)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_of_a_living_weight_that_is_not_finite_ends_the_stage(value, small_network):
    given = candidates(small_network)

    def odd(candidates):
        found = scores.magnitude(candidates)
        found["5.weight"][0, :3] = value
        return found

    said = refusal(ranked(odd), given)
    assert said.startswith(
        "the score test_finite.odd is not finite for 3 of 188 living weights, first in 5.weight: its lar"
    )
    given.masks["5.weight"][0, :3] = False  # of what is pruned already nobody asks
    assert masking.alive_count(ranked(odd)(given)) == 94


def test_a_score_of_another_shape_or_none_names_score_and_weight(small_network):
    given = candidates(small_network)

    def flat(candidates):
        return {name: weight.flatten() for name, weight in scores.magnitude(candidates).items()}

    def short(candidates):
        return {"0.weight": scores.magnitude(candidates)["0.weight"]}

    said = refusal(ranked(flat), given, kind="error")
    assert (
        said
        == "the score test_finite.flat of 0.weight: its shape is [36], and what it scores has the shape [4, 1, 3, 3]"
    )
    assert "test_finite.short of 5.weight: there is none" in refusal(ranked(short), given, kind="error")
    per_weight = ranked(scores.magnitude, structure="channel")
    assert "scores.magnitude of 0: there is none" in refusal(per_weight, given, kind="error")


@pytest.mark.parametrize("score", ["synaptic", "information_flow"])
def test_scores_of_a_network_that_overflows_say_why(score, lagging):
    said = refusal(methods.recipe("lth", settings("lth", score=score)).prune, candidates(lagging))
    assert said.startswith(f"the score scores.{score} is not finite for ")
    assert "with the running statistics of batch norm its activations are not finite from 5 on" in said


def test_second_order_scores_of_a_network_that_overflows_say_why(lagging):
    said = refusal(methods.recipe("sosp_h", settings("sosp_h", samples=12)).prune, candidates(lagging))
    assert "the score sosp_h.score is not finite for" in said and "living channels" in said and "running stat" in said


def test_masks_are_not_cut_by_what_has_no_order():
    weights, masks = {"w": torch.ones(2, 4)}, {"w": torch.ones(2, 4, dtype=torch.bool)}
    odd = {"w": torch.tensor([[1.0, math.nan, 2.0, math.nan], [3.0, 4.0, math.nan, math.nan]])}
    for scope in ("neuron", "layer", "global"):
        said = refusal(masking.prune, odd, weights, masks, scope, lambda values: values.numel() - 1, kind="error")
        assert "were to be pruned, and " in said and said.endswith("some scores are no numbers")
    assert "-3 of 8 were to be pruned" in refusal(
        masking.prune, weights, weights, masks, "global", lambda values: -3, kind="error"
    )


def test_prospr_names_the_rate_and_the_losses_it_leads_to(small_network):
    own = settings("prospr", structure="weight", inner_rate=1e30, samples=8, inner_steps=2)
    said = refusal(methods.recipe("prospr", own).prune, candidates(small_network))
    assert said.startswith(
        "methods.prospr.inner_rate: 1e+30 leads to scores that are not finite: the losses before and after"
    )
    assert "the 2 inner steps are 1." in said


def test_grasp_names_its_temperature(small_network):
    own = settings("iter_grasp", structure="weight", temperature=1e-30, samples_per_class=3, steps=1)
    said = refusal(methods.recipe("iter_grasp", own).prune, candidates(small_network))
    assert said.startswith(
        "methods.iter_grasp.temperature: 1e-30 leads to scores that are not finite: the norm of the grad"
    )


def test_thinet_and_mipp_name_the_activations_they_cannot_use(lagging):
    given = candidates(lagging)
    said = refusal(methods.recipe("thinet", settings("thinet", fraction=0.5)).prune, given)
    assert "what its channels contribute is not finite: with the running statistics" in said
    assert "learning_rate" not in said
    for structure in ("channel", "weight"):
        own = settings("mipp", structure=structure, samples=60, cells=1)
        said = refusal(methods.recipe("mipp", own).prune, given)
        assert (
            said.startswith("methods.mipp: ") and "the activations it is judged by are not finite: with the run" in said
        )
        assert "samples" not in said and "cells" not in said


def test_advice_for_too_few_samples_is_what_can_be_followed():
    few = TooFewSamples("too few", by_columns=True)
    assert few.relief("methods.mipp", 500, 500, 2) == (
        "raise methods.mipp.samples or lower methods.mipp.cells or set methods.mipp.predictor: mlp"
    )
    assert few.relief("methods.mipp", 400, 500, 1) == "set methods.mipp.predictor: mlp"  # there are no more images
    assert TooFewSamples("too few").relief("methods.mipp", 15, 20, 2) == "the training split has 15 images"


def test_mipp_with_too_few_images_says_which_settings_help():
    network = networks.build("mlp", 1, 8, 3)
    own = settings("mipp", samples=60, predictor="linear")
    said = refusal(methods.recipe("mipp", own).prune, candidates(network), kind="error")
    assert said.startswith("methods.mipp: hidden2: too few samples: ")
    assert said.endswith("; raise methods.mipp.samples or lower methods.mipp.cells or set methods.mipp.predictor: mlp")


def test_thinet_and_oto_check_the_number_of_channels_that_went(small_network, monkeypatch):
    given = candidates(networks.build("lenet5", 1, 8, 3))
    monkeypatch.setattr(thinet, "least_missed", lambda gram, count: torch.zeros(count, dtype=torch.int64))
    said = refusal(methods.recipe("thinet", settings("thinet", fraction=0.5)).prune, given, kind="error")
    assert said == "conv1: 3 of 6 channels were to go, and 1 went"
    half = oto.HalfSpace(given.network, given.groups, given.masks, settings("oto", fraction=0.5))
    half.chosen = torch.zeros_like(half.zero)
    assert "channels were to be gone, and 0 are" in refusal(half.masks, kind="error")


# --- flows and networks ----------------------------------------------------------------------------------------------


def test_a_flow_that_is_not_finite_says_why(lagging):
    images, labels = torch.randn(20, 1, 8, 8), torch.arange(20) % 3
    found = flow.information_flow(lagging.train(), images, "absolute")
    said = refusal(flow.finite, found, "the flow", lagging, images)
    assert said.startswith("the flow is not finite in ") and "with the running statistics of batch norm" in said
    assert lagging.training
    gradient = flow.gradient_flow(lagging, images, labels)
    assert "running statistics" in refusal(flow.finite, gradient, "the flow", lagging, images, labels)
    good = torch.tensor([1.0, 0.0])
    assert flow.finite(good, "the flow", lagging) is good


def fit(network, dataset, epochs=1, **changes):
    masks, sgd = masking.ones(network), SGD.model_copy(update=changes)
    return train(network, masks, dataset, sgd, "none", FixedEpochs(epochs), seed=0, clock=Clock(), label="test")


def test_a_loss_that_is_not_finite_from_the_start_is_not_blamed_on_the_learning_rate(small_network):
    with torch.no_grad():
        small_network[7].weight.fill_(3e38)
        small_network[5].weight.fill_(1e10)
    said = refusal(fit, small_network, data())
    assert (
        said.startswith("test: the loss of the first step is ")
        and "before any weight has moved: its activations" in said
    )
    assert "learning_rate" not in said


def test_a_divergence_names_the_step_and_the_loss_before_it(small_network):
    said = refusal(fit, small_network, data(), kind="diverged", learning_rate=1e9)
    assert "test: the loss became infinite or not a number in epoch 1; lower training.sgd.learning_rate or set" in said
    assert " in step " in said and "in the step before)" in said


def test_statistics_of_norms_that_overflow_are_noticed_where_they_do(small_network):
    with torch.no_grad():
        small_network[0].weight.mul_(1e19)  # a variance above 3e38
        small_network[0].bias.zero_()
    said = refusal(fit, small_network, data(), kind="diverged", learning_rate=1e-12)
    assert "the statistics of norms became infinite or not a number in epoch 1" in said and "1.running_var" in said


def test_answers_that_are_no_numbers_are_wrong_and_end_a_retraining(lagging, monkeypatch):
    labels = torch.tensor([0, 0, 1, 1])
    answers = torch.tensor([[math.nan, 1.0], [2.0, 1.0], [0.0, math.inf], [0.0, 1.0]])
    assert accuracy.share_correct(answers, labels) == 0.5
    dataset = data()
    fine = fit(networks.build("mlp", 1, 8, 3), dataset)
    assert fine.unanswered == 0
    refuse_unanswered(fine, lagging, dataset, "test")
    monkeypatch.setattr(loop, "logits", lambda network, dataset, split: accuracy.logits(lagging, dataset, split))
    outcome = fit(networks.build("mlp", 1, 8, 3), dataset)
    assert outcome.unanswered == 12 and outcome.history[-1]["validation_accuracy"] == 0
    said = refusal(refuse_unanswered, outcome, lagging, dataset, "test")
    assert "test: once trained, the network answers 12 of 12 validation images" in said and "running statistics" in said


def test_an_index_that_is_not_defined_is_an_empty_field(small_network):
    with torch.no_grad():
        small_network[5].weight.zero_()
    macs = {"0": 1, "5": 1, "7": 1}
    rows = {row["layer"]: row for row in layers.layer_table(small_network, masking.ones(small_network), macs)}
    assert rows["5"]["pq_index"] is None and rows["5"]["gini_index"] is None
    assert 0 < rows["7"]["pq_index"] < 1


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_file_holds_what_is_not_finite(value, tmp_path):
    path = tmp_path / "a.json"
    said = refusal(files.write_json, path, {"flows": {"information": [0.5, value]}, "n": 3})
    assert said.startswith(f"{path} is not written: flows.information.1 is {value}")
    said = refusal(files.write_csv, tmp_path / "a.csv", [{"a": 1.0, "b": None}, {"a": 2.0, "b": value}])
    assert f"a.csv is not written: 1.b is {value}" in said
    assert not list(tmp_path.iterdir())
    path.write_text(json.dumps({"flow": [0.5, value]}))
    assert "is damaged" in refusal(files.read_json, path, "python x.py", {"flow": list[float]}, kind="error")
    path.write_text('{"flow": [0.5, 1e999]}')  # JSON, and infinite when read
    said = refusal(files.read_json, path, "python x.py", {"flow": list[float]}, kind="error")
    assert "a.json is damaged (flow.1: Input should be a finite number)" in said


# --- batches and samples of one, more parts than images --------------------------------------------------------------


def test_batches_of_one_that_a_norm_cannot_use_are_one_line_before_any_step():
    network, dataset = networks.build("vgg11_bn", 1, 8, 3), data()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    said = refusal(fit, network, dataset, kind="error", batch_size=1)
    assert said.startswith("test: training.sgd.batch_size: 1 leaves features.") and said.endswith("or more")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert len(fit(networks.build("vgg11_bn", 1, 8, 3), data(4), batch_size=2).history) == 1
    assert len(fit(networks.build("mlp", 1, 8, 3), data(4), batch_size=1).history) == 1


@pytest.mark.parametrize(
    ("method", "changes", "n", "line"),
    [
        ("iter_snip", {"samples": 1}, 66, "methods.iter_snip.samples: 1 leaves one image in a sample, and "),
        (
            "prospr",
            {"samples": 1, "inner_steps": 2},
            66,
            "methods.prospr.samples: 1 leaves one image in a sample, and ",
        ),
        (
            "prospr",
            {"samples": 8, "inner_steps": 3},
            6,
            "methods.prospr.inner_steps: 3 with 6 images to train on leaves one image in a sample, and ",
        ),
        (
            "prospr",
            {"samples": 8, "inner_steps": 9},
            6,
            "methods.prospr.inner_steps: 9 steps and the loss after them need 10 images, there are 6 to train on; ",
        ),
    ],
)
def test_samples_of_one_and_more_parts_than_images_name_the_key(method, changes, n, line):
    given = candidates(networks.build("resnet18", 1, 8, 3), n)
    recipe = methods.recipe(method, settings(method, steps=1, structure="weight", **changes))
    assert refusal(recipe.prune, given, kind="error").startswith(line)
    without_norms = candidates(networks.build("lenet5", 1, 8, 3), max(n, 10))
    recipe.prune(without_norms)


# --- advice, and iterations that prune nothing -----------------------------------------------------------------------


@pytest.mark.parametrize("method", PROJECT.methods)
def test_advice_for_an_empty_layer_is_what_the_schema_takes(method, small_network):
    from prune_iteration import refuse_empty_layers

    raw = yaml.safe_load((layout.ROOT / layout.PARAMS).read_text())
    kept = masking.ones(small_network)
    kept["5.weight"] = torch.zeros_like(kept["5.weight"])
    own = import_module(f"prunus.methods.{method}").Settings.model_validate(raw["methods"][method])
    for iteration in (1, 2):
        said = refusal(refuse_empty_layers, kept, "label", method, own, None, iteration, kind="collapsed")
        ways = said.split("; ", 1)[1].replace(" or ", ", ").split(", ")
        assert ("list fewer study.iterations" in ways) == (iteration == 2)
        for way in ways:
            verb, key, *value = way.removeprefix("list ").replace(": ", " ").split()
            name = key.rpartition(".")[2]
            if verb == "set":
                assert schema.takes(own, **{name: value[0]}), way
            elif verb == "lower":
                assert schema.takes(own, **{name: getattr(own, name) / 2}), way
    assert ("set methods.iter_grasp.scope" in said) is False


def test_an_iteration_that_prunes_nothing_says_so_and_why(capsys):
    given = candidates(networks.build("lenet5", 1, 8, 3))

    def said(method, ratio_of=None, masks=None, **changes):
        at = given if masks is None else given.at(masks)
        say_if_nothing_goes(at.masks, at, "here", method, settings(method, **changes), ratio_of)
        return capsys.readouterr().out

    start = "here: nothing is pruned, and the network is retrained as it was: "
    assert said("lth", fraction=1e-7) == f"{start}methods.lth.fraction: 1e-07 comes to no weight\n"
    assert said("thinet", fraction=0.001) == f"{start}methods.thinet.fraction: 0.001 comes to no channel\n"
    assert said("oto", fraction=0.001) == f"{start}methods.oto.fraction: 0.001 comes to no channel\n"
    assert said("imp_channels", "mipp", fraction=0.0) == f"{start}the share that mipp removed comes to no channel\n"
    assert said("mipp") == f"{start}mipp finds no channel that can go\n"
    assert said("sap", gamma=0.0) == f"{start}the amount of methods.sap comes to no weight\n"
    last = {group.name: torch.arange(group.size) < 1 for group in given.groups}
    alone = channels.expand(given.groups, last, given.masks)
    assert asked(settings("imp_channels", fraction=0.5), replace(given.at(alone), iteration=2)) == 0
    pairs = {group.name: torch.arange(group.size) < 2 for group in given.groups}
    two = channels.expand(given.groups, pairs, given.masks)
    assert asked(settings("imp_channels", fraction=0.99), given.at(two)) == 5  # of 8; 3 of 226 stay
    say_if_nothing_goes(two, given, "here", "imp_channels", settings("imp_channels"), None)
    assert capsys.readouterr().out == ""
