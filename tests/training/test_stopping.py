"""When a retraining ends: by flow, by plateau, by the cap."""

import math

import pytest
import torch

from prunus import masks as masking
from prunus.run.errors import StageError
from prunus.training.accuracy import accuracy
from prunus.training.stopping import FlowSettings, FlowStop, Plateau
from small_data import learnable_dataset
from small_training import fit, flow_stop


def looks(stop, network=None):
    seen = []
    while not seen or seen[-1].reason is None:
        seen.append(stop.after_epoch(len(seen) + 1, network, [0.5]))
    return seen


def test_infinite_epsilon_stops_after_one_epoch():
    assert [look.reason for look in looks(flow_stop([9.0], epsilon=1e9))] == ["flow"]


def test_zero_epsilon_never_stops_before_the_cap():
    assert [look.reason for look in looks(flow_stop([0.1] * 6, epsilon=0.0))] == [None] * 5 + ["cap"]


def test_stops_at_the_first_distance_within_epsilon():
    assert [look.distance for look in looks(flow_stop([2.0, 1.0, 0.5, 0.1]))] == [2.0, 1.0, 0.5]


def test_relative_distance_is_divided_by_the_norm_of_the_reference():
    assert [look.distance for look in looks(flow_stop([2.0, 1.0], relative=True))] == [1.0, 0.5]


def test_looks_only_every_k_epochs():
    distances = [look.distance for look in looks(flow_stop([2.0, 0.1], every=2))]
    assert distances == [None, 2.0, None, pytest.approx(0.1)]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_flow_that_is_not_finite_ends_the_stage(value, small_network):
    with pytest.raises(StageError, match="the flow of the retrained network is not finite in 1 of 2 entries") as raised:
        looks(flow_stop([2.0, value]), small_network)
    assert raised.value.kind == "not_finite"


def test_no_distance_is_relative_to_a_reference_of_zeros():
    settings = dict(epsilon=0.5, metric="l2", relative=True, every=1, max_epochs=6, reference_quirks=False)
    stop = FlowStop(lambda network: torch.ones(2), torch.zeros(2), FlowSettings(**settings))
    with pytest.raises(StageError, match=r"Phi\* is 0 in every entry.*set relative: false"):
        looks(stop)
    settings["relative"] = False
    absolute = FlowStop(lambda network: torch.ones(2), torch.zeros(2), FlowSettings(**settings))
    assert looks(absolute)[-1].distance == pytest.approx(2**0.5)


def test_a_reference_of_another_network_is_one_clear_error():
    settings = dict(epsilon=0.5, metric="l2", relative=True, every=1, max_epochs=6, reference_quirks=False)
    stop = FlowStop(lambda network: torch.ones(3), torch.ones(2), FlowSettings(**settings))
    with pytest.raises(StageError, match=r"Phi\* has 2 entries and the flow of this network 3"):
        looks(stop)


def test_accuracy_is_a_second_stop_only_where_it_is_given():
    assert looks(flow_stop([2.0] * 6, accuracy_reached=lambda network: True))[0].reason == "accuracy"


def test_accuracy_is_asked_when_a_look_is_due_and_after_the_flow():
    asked = []
    stop = flow_stop([2.0, 2.0, 0.1], accuracy_reached=asked.append, every=2)
    assert [look.reason for look in looks(stop, "network")] == [None] * 5 + ["flow"]
    assert asked == ["network"] * 2


@pytest.mark.parametrize(
    ("patience", "accuracies", "reason"),
    [
        (1, [0.5, 0.6, 0.6], "plateau"),
        (2, [0.5, 0.5, 0.5], "plateau"),
        (2, [0.5, 0.4, 0.6, 0.5, 0.6], "plateau"),
        (2, [0.1, 0.2, 0.2, 0.3, 0.2, 0.4], "cap"),
        (6, [0.5] * 6, "cap"),
    ],
)
def test_a_plateau_is_patience_epochs_in_a_row_without_a_better_accuracy(patience, accuracies, reason):
    stop = Plateau(patience, max_epochs=6)
    seen = [stop.after_epoch(epoch, None, accuracies[:epoch]).reason for epoch in range(1, len(accuracies) + 1)]
    assert seen == [None] * (len(accuracies) - 1) + [reason]


def test_a_plateau_is_judged_by_the_accuracies_of_the_history_and_the_last_weights_stay(small_network):
    dataset = learnable_dataset()
    outcome = fit(small_network, masking.ones(small_network), dataset, Plateau(2, 15))
    accuracies = [row["validation_accuracy"] for row in outcome.history]
    assert outcome.reason == "plateau"
    assert max(accuracies[:-2]) >= max(accuracies[-2:]) and accuracies.index(max(accuracies)) == len(accuracies) - 3
    assert accuracies[-1] == accuracy(small_network, dataset, "validation")
