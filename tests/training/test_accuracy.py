"""Answers and accuracies of a network."""

import torch

from prunus.data.dataset import Dataset, Split
from prunus.training.accuracy import accuracy, is_constant, logits, share_correct


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
