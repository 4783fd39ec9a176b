"""The loop and its stop rules: masks held, resets, fixed and flow stops (T9, T13), the same bytes twice."""

import math

import pytest
import torch

from example_networks import slim
from prunus import masks as masking
from prunus import networks
from prunus.data.batches import batches_per_epoch
from prunus.data.dataset import Dataset, Split
from prunus.pruning.settings import PQSettings
from prunus.run.errors import StageError
from prunus.study import catalogue
from prunus.training.stopping import FixedEpochs, Plateau
from small_data import learnable_dataset
from small_training import SGD, fit, flow_stop


def images(n, channels=1, side=8):
    return torch.randint(0, 256, (n, channels, side, side), dtype=torch.uint8)


@pytest.fixture
def dataset():
    return learnable_dataset()


def half(network):
    generator = torch.Generator().manual_seed(3)
    return {name: torch.rand(w.shape, generator=generator) < 0.5 for name, w in masking.prunable(network).items()}


@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_pruned_weights_stay_exactly_zero(small_network, dataset, clip_norm, schedule):
    masks = half(small_network)
    before = {name: weight.clone() for name, weight in masking.prunable(small_network).items()}
    fit(small_network, masks, dataset, sgd=SGD.model_copy(update={"clip_norm": clip_norm, "schedule": schedule}))
    for name, weight in masking.prunable(small_network).items():
        assert (weight[~masks[name]] == 0).all()
        assert (weight[masks[name]] != before[name][masks[name]]).any()


def test_it_learns(small_network, dataset):
    outcome = fit(small_network, masking.ones(small_network), dataset, FixedEpochs(15))
    losses = [row["train_loss"] for row in outcome.history]
    assert losses[-1] < 0.7 * losses[0]
    assert [row["epoch"] for row in outcome.history] == list(range(1, 16))


def test_the_same_seed_gives_the_same_bytes(dataset):
    def trained():
        torch.manual_seed(5)
        network = networks.build("lenet5", 1, 8, 3)
        outcome = fit(network, masking.ones(network), dataset, augment="flip_crop")
        return network.state_dict(), outcome.history

    (first, history), (second, again) = trained(), trained()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert history == again


def test_keeps_the_state_after_the_asked_steps(small_network, dataset):
    start = {name: tensor.clone() for name, tensor in small_network.state_dict().items()}
    steps = batches_per_epoch(66, SGD.batch_size)
    kept = fit(small_network, masking.ones(small_network), dataset, keep_after=0).kept
    assert all(torch.equal(kept[name], start[name]) for name in start)
    small_network.load_state_dict(start)
    kept = fit(small_network, masking.ones(small_network), dataset, keep_after=2 * steps).kept
    assert all(torch.equal(kept[name], tensor) for name, tensor in small_network.state_dict().items())


def test_a_loss_that_is_not_finite_is_one_clear_error(small_network, dataset):
    with pytest.raises(StageError, match="epoch 1; lower training.sgd.learning_rate") as raised:
        fit(small_network, masking.ones(small_network), dataset, sgd=SGD.model_copy(update={"learning_rate": 1e9}))
    assert raised.value.kind == "diverged"


def test_weights_that_are_not_finite_after_the_last_step_are_too(small_network, dataset):
    class Breaking:
        def __init__(self):
            self.steps = batches_per_epoch(66, SGD.batch_size)

        def gradients(self):
            self.steps -= 1

        def end_epoch(self, last):
            pass

        def project(self, epoch, rate):
            if self.steps == 0:  # no loss of this epoch will be computed with it any more
                small_network[0].weight.data[0, 0, 0, 0] = float("inf")

    with pytest.raises(StageError, match="weights became infinite or not a number in epoch 1"):
        fit(small_network, masking.ones(small_network), dataset, FixedEpochs(1), sparsifier=Breaking())


SCOPES = ("neuron", "layer", "global")


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", catalogue.SMALLEST_SIDE)
def test_every_network_and_scope_trains_one_step_with_masks_held(name, scope):
    network = slim(name, 1, 8, 3)
    weights = masking.prunable(network)
    tiny = {"train": Split(images(2), torch.tensor([0, 1])), "validation": Split(images(2), torch.tensor([0, 1]))}
    data = Dataset(tiny, torch.full((1,), 0.5), torch.full((1,), 0.25), ["a", "b", "c"])
    settings = PQSettings(index="pq", p=0.5, q=1.0, eta=0.0, gamma=1.0, beta=0.9, scope=scope, rewind="initial")
    masks = masking.magnitude_masks(
        {key: weight.detach() for key, weight in weights.items()}, masking.ones(network), scope, settings.amount
    )
    assert 0.5 < masking.density(masks) < 0.95
    outcome = fit(network, masks, data, FixedEpochs(1), sgd=SGD.model_copy(update={"learning_rate": 1e-4}))
    assert len(outcome.history) == 1
    assert all((weights[key][~masks[key]] == 0).all() for key in masks)


class Recorder:
    """A sparsifier that doubles the classifier's bias gradient, holds another bias at 2 and writes down its calls."""

    def __init__(self, network):
        self.network, self.calls, self.seen = network, [], []

    def gradients(self):
        self.calls.append("gradients")
        self.before = self.network[7].bias.detach().clone()
        self.network[7].bias.grad.mul_(2)
        self.gradient = self.network[7].bias.grad.clone()

    def project(self, epoch, rate):
        self.calls.append(("project", epoch, rate))
        self.seen.append((self.before - self.network[7].bias.detach(), self.gradient))
        self.network[5].bias.data.fill_(2.0)

    def end_epoch(self, last):
        self.calls.append(("end", last))


def test_a_sparsifier_sees_gradients_before_and_parameters_after_every_step(small_network, dataset):
    sparsifier = Recorder(small_network)
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "schedule": "cosine"}
    plain = SGD.model_copy(update=plain)
    fit(small_network, masking.ones(small_network), dataset, sgd=plain, sparsifier=sparsifier)
    steps = batches_per_epoch(66, SGD.batch_size)
    expected = []
    for epoch, rate in ((1, 0.05), (2, 0.025)):
        expected += ["gradients", ("project", epoch, pytest.approx(rate))] * steps + [("end", epoch == 2)]
    assert sparsifier.calls == expected
    for number, (moved, gradient) in enumerate(sparsifier.seen):
        torch.testing.assert_close(moved, (0.05 if number < steps else 0.025) * gradient, atol=1e-6, rtol=1e-4)
    assert (small_network[5].bias == 2.0).all()


STEPS = batches_per_epoch(66, SGD.batch_size)  # 5


@pytest.mark.parametrize("start", [0, 3, STEPS, 7, 2 * STEPS + 4])
def test_rewound_to_a_step_of_the_dense_training_it_goes_on_as_that_did(small_network, dataset, start):
    """Late rewinding: with nothing pruned, the same order, and no momentum to forget, it ends as the dense network."""
    sgd = SGD.model_copy(update={"momentum": 0.0, "nesterov": False, "schedule": "cosine"})
    options = {"stop": FixedEpochs(3), "sgd": sgd, "augment": "flip_crop"}
    dense = fit(small_network, masking.ones(small_network), dataset, keep_after=start, **options)
    expected = {name: tensor.clone() for name, tensor in small_network.state_dict().items()}
    small_network.load_state_dict(dense.kept)
    outcome = fit(small_network, masking.ones(small_network), dataset, start=start, **options)
    assert all(torch.equal(expected[name], tensor) for name, tensor in small_network.state_dict().items())
    assert [row["epoch"] for row in outcome.history] == list(range(1, 4 - start // STEPS))
    whole = 3 - -(-start // STEPS)  # epochs of which no step is left out
    numbers = lambda rows: [(row["train_loss"], row["validation_accuracy"]) for row in rows]  # noqa: E731
    assert numbers(outcome.history)[3 - start // STEPS - whole :] == numbers(dense.history)[3 - whole :]
    assert outcome.history[-1]["validation_accuracy"] == dense.history[-1]["validation_accuracy"]


def test_late_rewinding_takes_the_steps_that_are_left_at_the_schedules_rates(small_network, dataset):
    sparsifier = Recorder(small_network)
    sgd = SGD.model_copy(update={"schedule": "cosine"})
    fit(small_network, masking.ones(small_network), dataset, FixedEpochs(4), sgd, start=7, sparsifier=sparsifier)
    expected = []
    for epoch, steps in ((2, 3), (3, 5), (4, 5)):  # 4 * 5 - 7 = 13
        rate = 0.05 * (0.5 + 0.5 * math.cos(math.pi * (epoch - 1) / 4))
        expected += ["gradients", ("project", epoch, pytest.approx(rate))] * steps + [("end", epoch == 4)]
    assert sparsifier.calls == expected


def test_the_loss_of_an_epoch_begun_late_is_the_mean_of_the_steps_it_took(small_network, dataset):
    still = SGD.model_copy(update={"learning_rate": 1e-12})
    losses = [
        fit(small_network, masking.ones(small_network), dataset, FixedEpochs(1), still, start=start).history[0]
        for start in (0, STEPS - 1)
    ]
    assert losses[1]["train_loss"] == pytest.approx(losses[0]["train_loss"], rel=0.3)  # not a fifth of it


@pytest.mark.parametrize("start", [2 * STEPS, 2 * STEPS + 1])
def test_late_rewinding_that_leaves_nothing_to_train_is_one_clear_error(small_network, dataset, start):
    with pytest.raises(StageError, match=f"warmup_steps: {start}, and its 2 epochs have 10 steps: nothing is left"):
        fit(small_network, masking.ones(small_network), dataset, FixedEpochs(2), start=start)


def test_after_late_rewinding_patience_is_of_epochs_trained_and_every_of_the_schedules(small_network, dataset):
    still = SGD.model_copy(update={"learning_rate": 1e-12, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False})
    for start in (0, 3 * STEPS + 1):
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        outcome = fit(network, masking.ones(network), dataset, Plateau(2, 9), still, start=start)
        assert (len(outcome.history), outcome.reason) == (3, "plateau")
    stop = flow_stop([2.0, 2.0, 2.0], every=2, max_epochs=6)
    outcome = fit(small_network, masking.ones(small_network), dataset, stop, start=STEPS + 1)
    assert [row["distance"] for row in outcome.history] == [2.0, None, 2.0, None, 2.0]
    assert outcome.reason == "cap"
