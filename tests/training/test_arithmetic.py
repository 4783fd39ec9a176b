"""Precision and memory format: what auto chooses, and that no choice changes what is learned beyond its rounding."""

import math

import pytest
import torch
import torch.nn.functional as F

import small_training
from example_networks import slim
from prunus import masks as masking
from prunus.data.dataset import Dataset, Split
from prunus.flow import gradient_flow, information_flow
from prunus.run.device import Clock
from prunus.training.arithmetic import Arithmetic, choose
from prunus.training.loop import train
from prunus.training.stopping import FixedEpochs

CPU = torch.device("cpu")
SGD = small_training.SGD.model_copy(update={"learning_rate": 0.02})


@pytest.fixture
def dataset():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(48) % 3
    images = torch.randint(0, 256, (48, 1, 8, 8), dtype=torch.uint8, generator=generator) // 4
    split = Split(images + 60 * labels.view(-1, 1, 1, 1).to(torch.uint8), labels)
    return Dataset(
        {"train": split, "validation": split}, torch.full((1,), 0.5), torch.full((1,), 0.25), ("a", "b", "c")
    )


def batch_size(name):
    """Three steps an epoch; one for resnet18, whose batch norm over so few pixels makes much of a rounding."""
    return 48 if name == "resnet18" else 16


def random_masks(network):
    generator = torch.Generator().manual_seed(3)
    return {n: torch.rand(w.shape, generator=generator) < 0.7 for n, w in masking.prunable(network).items()}


def trained(name, dataset, computed):
    torch.manual_seed(0)
    network = computed.place(slim(name, 1, 8, 3), CPU)
    masks = random_masks(network)
    outcome = train(
        network,
        masks,
        dataset,
        SGD.model_copy(update={"batch_size": batch_size(name)}),
        "none",
        FixedEpochs(1),
        seed=1,
        clock=Clock(),
        label="test",
        precision=computed.dtype,
    )
    return network, masks, outcome.history[-1]["train_loss"]


def textbook(name, dataset):
    """One epoch of ``trained`` with torch's own optimiser; pruned weights are set to zero after every step."""
    torch.manual_seed(0)
    network = slim(name, 1, 8, 3)
    masks = random_masks(network)
    masking.apply(network, masks)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.01)
    split = dataset.splits["train"]
    for batch in torch.randperm(48, generator=torch.Generator().manual_seed(1)).split(batch_size(name)):
        optimiser.zero_grad()
        images = (split.images[batch].float() / 255 - 0.5) / 0.25
        F.cross_entropy(network(images), split.labels[batch]).backward()
        for key, weight in masking.prunable(network).items():
            weight.grad[~masks[key]] = 0
        optimiser.step()
    return network


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["mlp", "lenet5", "cnn", "resnet18", "vit"])
def test_an_epoch_is_the_textbook_one(name, memory_format, dataset):
    """To a hundredth of the way that each parameter goes: batch norm over few pixels makes much of a rounding, and how
    much depends on the processor."""
    network, _, _ = trained(name, dataset, Arithmetic("float32", memory_format))
    torch.manual_seed(0)
    start = slim(name, 1, 8, 3)
    masking.apply(start, random_masks(start))
    both = zip(network.parameters(), textbook(name, dataset).parameters(), start.parameters(), strict=True)
    for ours, theirs, before in both:
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= 0.01 * (theirs - before).norm() + 1e-6


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet18", "vit"])
def test_bfloat16_rounds_the_products_and_nothing_else(name, dataset):
    exact, _, loss = trained(name, dataset, Arithmetic("float32", "contiguous"))
    rounded, masks, rounded_loss = trained(name, dataset, Arithmetic("bfloat16", "channels_last"))
    weights = dict(rounded.named_parameters())
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    assert all((weights[key][~mask] == 0).all() for key, mask in masks.items())
    assert rounded_loss == pytest.approx(loss, rel=0.05)
    assert rounded_loss != loss
    pairs = zip(exact.parameters(), rounded.parameters(), strict=True)
    moved = math.hypot(*(torch.linalg.vector_norm(a - b).item() for a, b in pairs))
    assert moved < 0.05 * math.hypot(*(torch.linalg.vector_norm(weight).item() for weight in exact.parameters()))


def test_the_same_choice_gives_the_same_bytes(dataset):
    for computed in (Arithmetic("bfloat16", "channels_last"), Arithmetic("float32", "channels_last")):
        first, again = (trained("cnn", dataset, computed)[0].state_dict() for _ in range(2))
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_flow_does_not_depend_on_the_memory_format():
    torch.manual_seed(0)
    network, images, labels = slim("resnet18", 1, 8, 3), torch.randn(32, 1, 8, 8), torch.arange(32) % 3
    plain = information_flow(network, images, "absolute"), gradient_flow(network, images, labels)
    Arithmetic("float32", "channels_last").place(network, CPU)
    assert network.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(information_flow(network, images, "absolute"), plain[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient_flow(network, images, labels), plain[1], rtol=1e-4, atol=1e-6)


def test_auto_is_the_faster_memory_format_of_the_network():
    assert choose("float32", "auto", "lenet5") == Arithmetic("float32", "channels_last")
    assert choose("bfloat16", "auto", "mlp") == Arithmetic("bfloat16", "contiguous")
    assert choose("float32", "contiguous", "resnet18") == Arithmetic("float32", "contiguous")
