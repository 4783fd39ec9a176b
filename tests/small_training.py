"""Trainings and stop rules small enough for a test."""

import torch

from prunus.run.device import Clock
from prunus.study.schema import Sgd
from prunus.training.loop import train
from prunus.training.stopping import FixedEpochs, FlowSettings, FlowStop

SGD = Sgd(
    batch_size=16,
    learning_rate=0.05,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.01,
    schedule="constant",
    clip_norm=0.0,
)


def fit(network, masks, dataset, stop=None, sgd=SGD, augment="none", **options):
    stop = stop or FixedEpochs(2)
    return train(network, masks, dataset, sgd, augment, stop, seed=1, clock=Clock(), label="test", **options)


def flow_stop(distances, accuracy_reached=None, **changes):
    """A flow rule that sees the given distances to a reference of norm 2, epoch after epoch."""
    settings = dict(epsilon=0.5, metric="l2", relative=False, every=1, max_epochs=6, reference_quirks=False)
    reference, values = torch.tensor([0.0, 2.0]), iter(distances)
    measure = lambda network: reference + torch.tensor([next(values), 0.0])  # noqa: E731
    return FlowStop(measure, reference, FlowSettings(**settings | changes), accuracy_reached)
