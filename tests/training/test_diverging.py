"""Training that leaves the finite numbers ends in one line that says where and why."""

import math
from functools import partial

import torch

import hostile
import small_training
from example_networks import slim
from prunus import masks as masking
from prunus import networks
from prunus.run.device import Clock
from prunus.training import accuracy, loop
from prunus.training.loop import refuse_unanswered, train
from prunus.training.stopping import FixedEpochs
from small_data import random_dataset

refusal = partial(hostile.refusal, kind="not_finite")

SGD = small_training.SGD.model_copy(
    update={"learning_rate": 0.01, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
)


def fit(network, dataset, epochs=1, **changes):
    masks, sgd = masking.ones(network), SGD.model_copy(update=changes)
    return train(network, masks, dataset, sgd, "none", FixedEpochs(epochs), seed=0, clock=Clock(), label="test")


def test_a_loss_that_is_not_finite_from_the_start_is_not_blamed_on_the_learning_rate(small_network):
    with torch.no_grad():
        small_network[7].weight.fill_(3e38)
        small_network[5].weight.fill_(1e10)
    said = refusal(fit, small_network, random_dataset())
    assert (
        said.startswith("test: the loss of the first step is ")
        and "before any weight has moved: its activations" in said
    )
    assert "learning_rate" not in said


def test_a_divergence_names_the_step_and_the_loss_before_it(small_network):
    said = refusal(fit, small_network, random_dataset(), kind="diverged", learning_rate=1e9)
    assert "test: the loss became infinite or not a number in epoch 1; lower training.sgd.learning_rate or set" in said
    assert " in step " in said and "in the step before)" in said


def test_statistics_of_norms_that_overflow_are_noticed_where_they_do(small_network):
    with torch.no_grad():
        small_network[0].weight.mul_(1e19)  # a variance above 3e38
        small_network[0].bias.zero_()
    said = refusal(fit, small_network, random_dataset(), kind="diverged", learning_rate=1e-12)
    assert "the statistics of norms became infinite or not a number in epoch 1" in said and "1.running_var" in said


def test_answers_that_are_no_numbers_are_wrong_and_end_a_retraining(lagging, monkeypatch):
    labels = torch.tensor([0, 0, 1, 1])
    answers = torch.tensor([[math.nan, 1.0], [2.0, 1.0], [0.0, math.inf], [0.0, 1.0]])
    assert accuracy.share_correct(answers, labels) == 0.5
    dataset = random_dataset()
    fine = fit(networks.build("mlp", 1, 8, 3), dataset)
    assert fine.unanswered == 0
    refuse_unanswered(fine, lagging, dataset, "test")
    monkeypatch.setattr(loop, "logits", lambda network, dataset, split: accuracy.logits(lagging, dataset, split))
    outcome = fit(networks.build("mlp", 1, 8, 3), dataset)
    assert outcome.unanswered == 12 and outcome.history[-1]["validation_accuracy"] == 0
    said = refusal(refuse_unanswered, outcome, lagging, dataset, "test")
    assert "test: once trained, the network answers 12 of 12 validation images" in said and "running statistics" in said


def test_batches_of_one_that_a_norm_cannot_use_are_one_line_before_any_step():
    network, dataset = slim("vgg11_bn", 1, 8, 3), random_dataset()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    said = refusal(fit, network, dataset, kind="error", batch_size=1)
    assert said.startswith("test: training.sgd.batch_size: 1 leaves features.") and said.endswith("or more")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert len(fit(slim("vgg11_bn", 1, 8, 3), random_dataset(4), batch_size=2).history) == 1
    assert len(fit(networks.build("mlp", 1, 8, 3), random_dataset(4), batch_size=1).history) == 1
