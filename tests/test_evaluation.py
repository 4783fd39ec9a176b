"""What a network answers, whether it answers the same to everything, and how long it takes."""

import torch
from torch import nn

from prunus.datasets import Dataset, Split
from prunus.evaluation import accuracy, is_constant, logits, share_correct
from prunus.latency import FEWEST_RUNS, MOST_RUNS, latency


def dataset():
    images = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8)
    split = {"test": Split(images, torch.arange(50) % 3)}
    return Dataset(split, torch.tensor([0.5]), torch.tensor([0.25]), ("a", "b", "c"))


def test_logits_are_those_of_eval_mode_whatever_the_batch(small_network):
    data = dataset()
    small_network.train()
    whole = logits(small_network, data, "test")
    assert small_network.training
    torch.testing.assert_close(logits(small_network, data, "test", batch_size=7), whole)
    torch.testing.assert_close(whole, small_network.eval()(data.normalise(data.splits["test"].images)))
    assert accuracy(small_network, data, "test") == share_correct(whole, data.splits["test"].labels)
    assert share_correct(torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 2, 2])) == 0.75


def test_a_network_with_an_empty_layer_is_constant(small_network):
    data = dataset()
    assert not is_constant(logits(small_network, data, "test"))
    with torch.no_grad():
        small_network[5].weight.zero_()
    assert is_constant(logits(small_network, data, "test"))


def test_latency_is_of_eval_mode_and_tells_networks_apart():
    small, large = nn.Linear(8, 8), nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(8)))
    modes = []
    large.register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    (one, same), _ = latency([small, small], torch.zeros(1, 8))
    (many,), runs = latency([large], torch.zeros(64, 1000))
    assert FEWEST_RUNS <= runs <= MOST_RUNS and len(modes) == runs + 1 and not any(modes)
    assert many > one > 0 and same > 0
