"""Numbers that are not finite, and samples too small, end a pruning step in one line that says why and what to do."""

import math
from dataclasses import replace
from functools import partial
from importlib import import_module

import pytest
import torch
import yaml

import hostile
from example_networks import slim
from prune_iteration import asked, say_if_nothing_goes
from prunus import channels, methods, networks
from prunus import masks as masking
from prunus.information.estimate import TooFewSamples
from prunus.methods import oto, thinet
from prunus.pruning import scores
from prunus.pruning.candidates import Candidates
from prunus.pruning.ranked import Ranked
from prunus.sparsity import FractionAmount
from prunus.study import layout, params, schema
from small_data import random_dataset

PROJECT = params.read()

refusal = partial(hostile.refusal, kind="not_finite")


def settings(method, **changes):
    return PROJECT.methods[method].model_copy(update=changes)


def candidates(network, n=66):
    dataset = random_dataset(n)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    sample = dataset.normalise(dataset.splits["train"].images), dataset.splits["train"].labels
    return Candidates(network, masking.ones(network), 1, dataset, 0, lambda point: state, sample)


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
    assert said == "the score test_finite.flat of 0.weight has shape [36]; it must have shape [4, 1, 3, 3]"
    assert "test_finite.short of 5.weight is missing" in refusal(ranked(short), given, kind="error")
    per_weight = ranked(scores.magnitude, structure="channel")
    assert "scores.magnitude of 0 is missing" in refusal(per_weight, given, kind="error")


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
        assert "were to be pruned, and " in said and said.endswith("some scores are NaN")
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
    message = refusal(half.masks, kind="error")
    assert message.startswith("0 of ") and "channels are zero; " in message


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
    given = candidates(slim("resnet18", 1, 8, 3), n)
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
    assert said("lth", fraction=1e-7) == f"{start}methods.lth.fraction: 1e-07 amounts to no weight\n"
    assert said("thinet", fraction=0.001) == f"{start}methods.thinet.fraction: 0.001 amounts to no channel\n"
    assert said("oto", fraction=0.001) == f"{start}methods.oto.fraction: 0.001 amounts to no channel\n"
    assert said("imp_channels", "mipp", fraction=0.0) == f"{start}the share that mipp removed amounts to no channel\n"
    assert said("mipp") == f"{start}mipp finds no channel to remove\n"
    assert said("sap", gamma=0.0) == f"{start}the amount of methods.sap amounts to no weight\n"
    last = {group.name: torch.arange(group.size) < 1 for group in given.groups}
    alone = channels.expand(given.groups, last, given.masks)
    assert asked(settings("imp_channels", fraction=0.5), replace(given.at(alone), iteration=2)) == 0
    pairs = {group.name: torch.arange(group.size) < 2 for group in given.groups}
    two = channels.expand(given.groups, pairs, given.masks)
    assert asked(settings("imp_channels", fraction=0.99), given.at(two)) == 5  # of 8; 3 of 226 stay
    say_if_nothing_goes(two, given, "here", "imp_channels", settings("imp_channels"), None)
    assert capsys.readouterr().out == ""
