"""OTO: half-space projection, penalty and scores by hand, zeros that hold, counts, and deletion without a change."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from example_networks import slim
from prunus import channels, networks
from prunus import masks as masking
from prunus.channels.groups import Group, Slice
from prunus.data.batches import epoch as epoch_of
from prunus.data.dataset import Dataset, Split
from prunus.methods.oto import Channels, HalfSpace, Settings, recipe
from prunus.pruning.candidates import Candidates
from prunus.run.device import Clock
from prunus.training.loop import train
from prunus.training.stopping import FixedEpochs
from small_training import SGD

SETTINGS = Settings(form="dhspg", fraction=0.5, penalty=0.01, epsilon=0.5, warmup_epochs=1, epochs=3, rewind="trained")


def with_(**changes):
    return SETTINGS.model_copy(update=changes)


class Pairs(nn.Module):
    """Channels of two parameters each, a weight and a bias; nothing else of it is used."""

    def __init__(self, values):
        super().__init__()
        values = torch.tensor(values)
        self.first = nn.Linear(1, len(values))
        self.second = nn.Linear(len(values), 2)
        self.first.weight.data, self.first.bias.data = values[:, :1].clone(), values[:, 1].clone()

    @property
    def values(self):
        return torch.cat([self.first.weight, self.first.bias[:, None]], 1).detach()

    def grad(self, gradients):
        gradients = torch.tensor(gradients)
        self.first.weight.grad, self.first.bias.grad = gradients[:, :1].clone(), gradients[:, 1].clone()

    def move(self, values):
        values = torch.tensor(values)
        self.first.weight.data[:], self.first.bias.data[:] = values[:, :1], values[:, 1]


def sparsifier_of(pairs, **changes):
    index = torch.arange(len(pairs.values))[:, None]
    group = Group(
        "first",
        len(index),
        (Slice("first.weight", 0, index), Slice("first.bias", 0, index), Slice("second.weight", 1, index)),
    )
    return HalfSpace(pairs, [group], masking.ones(pairs), with_(**changes))


def test_a_step_out_of_the_half_space_ends_at_zero():
    start = [[3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0], [9.0, 9.0]]
    # <new, old> of the first four: 12.6, 12.4, -7, 25; half of ||old||^2 is 12.5
    step = [[3.0, 0.9], [3.0, 0.85], [3.0, -4.0], [3.0, 4.0], [9.0, 9.0]]
    pairs = Pairs(start)
    sparsifier = sparsifier_of(pairs, form="hspg", fraction=0.9, epsilon=0.5)
    for epoch in (1, 2):
        pairs.move(start)
        pairs.grad([[0.0, 0.0]] * 5)
        sparsifier.gradients()
        pairs.move(step)
        sparsifier.project(epoch, 1.0)
        zero = [1, 2] if epoch == 2 else []  # no projection in the warm-up
        expected = torch.tensor([[0.0, 0.0] if row in zero else values for row, values in enumerate(step)])
        assert torch.equal(pairs.values, expected)
    masks = sparsifier.masks()
    assert masks["second.weight"].all(0).tolist() == [True, False, False, True, True]
    assert masks["first.weight"].flatten().tolist() == [True, False, False, True, True]


def test_epsilon_zero_asks_for_a_turn_beyond_the_right_angle():
    pairs = Pairs([[3.0, 4.0], [3.0, 4.0], [9.0, 9.0]])
    sparsifier = sparsifier_of(pairs, form="hspg", epsilon=0.0, fraction=0.9)
    pairs.grad([[0.0, 0.0]] * 3)
    sparsifier.gradients()
    pairs.move([[4.0, -2.9], [4.0, -3.1], [9.0, 9.0]])
    sparsifier.project(2, 1.0)
    assert sparsifier.zero.tolist() == [False, True, False]


@pytest.mark.parametrize(("fraction", "gone"), [(0.2, [1]), (0.4, [1, 3]), (0.99, [0, 1, 2, 3])])
def test_the_cap_takes_the_smallest_and_one_channel_stays(fraction, gone):
    start = torch.tensor([3.0, 1.0, 4.0, 2.0, 5.0])[:, None] * torch.tensor([0.6, 0.8])
    pairs = Pairs(start.tolist())
    sparsifier = sparsifier_of(pairs, form="hspg", fraction=fraction)
    pairs.grad([[0.0, 0.0]] * 5)
    for _ in range(2):
        sparsifier.gradients()
        pairs.move((-start).tolist())
        sparsifier.project(2, 1.0)
    assert sparsifier.zero.nonzero().flatten().tolist() == gone


def test_group_lasso_adds_the_unit_vector_times_the_penalty():
    pairs = Pairs([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]])
    sparsifier = sparsifier_of(pairs, form="hspg", penalty=0.1)
    pairs.grad([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    sparsifier.gradients()
    found = torch.cat([pairs.first.weight.grad, pairs.first.bias.grad[:, None]], 1)
    torch.testing.assert_close(found, torch.tensor([[1.06, 1.08], [1.0, 0.9], [1.0, 1.0]]))


def stepped(pairs, sparsifier, direction, epoch, rate=0.1):
    """What a step against ``direction`` and the sparsifier's after it moved the values by, over the learning rate."""
    before = pairs.values
    pairs.grad(direction.tolist())
    sparsifier.gradients()
    assert torch.equal(pairs.first.weight.grad, direction[:, :1])  # the penalty is a step of its own
    pairs.move((before - rate * direction).tolist())
    sparsifier.project(epoch, rate)
    return (before - pairs.values) / rate


def test_dhspg_scores_direction_and_size_and_adapts_the_penalty():
    values = torch.tensor([[3.0, 4.0], [0.5, 0.0], [0.0, 2.0], [1.0, 1.0]])
    slopes = torch.tensor([[-1.0, 1.0], [0.5, 0.2], [-0.3, -0.01], [-1.0, -1.0]])
    cosine = torch.stack([torch.dot(-x, -g) / (x.norm() * g.norm()) for x, g in zip(values, slopes, strict=True)])
    small = torch.stack([1 / (x.norm() / 2) for x in values])
    scores = 0.5 * cosine / cosine.norm() + 0.5 * small / small.norm()
    pairs = Pairs(values.tolist())
    sparsifier = sparsifier_of(pairs, fraction=0.75, penalty=0.005, epsilon=0.0)
    torch.testing.assert_close(stepped(pairs, sparsifier, slopes, 1), slopes, atol=1e-5, rtol=1e-5)  # in the warm-up
    assert sparsifier.chosen is None
    pairs.move(values.tolist())
    found = stepped(pairs, sparsifier, slopes, 2)
    kept = int(scores.argmin())
    assert kept == 3 and sparsifier.chosen.nonzero().flatten().tolist() == [0, 1, 2]
    # <x, direction> is 1 and 0.25, so the plain penalty, and -0.02 on a norm of 2: twice 0.01, and then 10 * 0.005
    penalties = torch.tensor([0.005, 0.005, 0.02, 0.0])
    torch.testing.assert_close(found, slopes + penalties[:, None] * F.normalize(values, dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("slope", "penalty"), [([0.0, -0.001], 0.005), ([-0.3, -0.1], 0.05), ([0.0, -0.0045], 0.0045)])
def test_the_adapted_penalty_stays_between_its_bounds(slope, penalty):
    """Below: the plain penalty where it descends the loss; above: ten times it, or the middle of the bounds."""
    pairs = Pairs([[0.0, 0.1], [0.0, 9.0]])
    sparsifier = sparsifier_of(pairs, fraction=0.5, penalty=0.005)
    slopes = torch.tensor([slope, [0.0, -1.0]])
    sparsifier.chosen = torch.tensor([True, False])
    found = stepped(pairs, sparsifier, slopes, 2)
    lower, upper = -slope[1], (slope[0] ** 2 + slope[1] ** 2) / -slope[1]
    if penalty >= upper:
        penalty = (lower + upper) / 2
    assert found[0, 1].item() - slope[1] == pytest.approx(penalty, rel=1e-3)


def plainly(network, groups, dataset, settings, sgd, seed):
    """OTOv2's training written out from the authors' dhspg.py, channel by channel and in float64: the channels chosen,
    and those at zero after the last step (before what is left of the count is zeroed)."""
    network.double().train()
    parameters = dict(network.named_parameters())
    places = [[(part.parameter, part.index[c]) for part in group.writes] for group in groups for c in range(group.size)]
    read = lambda tensors, channel: torch.cat([tensors[name][index].flatten() for name, index in channel])  # noqa: E731
    generator, direction, chosen = torch.Generator().manual_seed(seed), {}, None
    for epoch in range(1, settings.epochs + 1):
        for images, labels in epoch_of(dataset.splits["train"], sgd.batch_size, "none", generator):
            loss = F.cross_entropy(network(dataset.normalise(images).double()), labels)
            gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
            with torch.no_grad():
                for name, parameter in parameters.items():
                    gradient = gradients[name] + sgd.weight_decay * parameter
                    direction[name] = sgd.momentum * direction.get(name, 0) + gradient
                x = [read(parameters, channel) for channel in places]
                d = [read(direction, channel) for channel in places]
                if epoch > settings.warmup_epochs and chosen is None:
                    cosine = torch.stack([F.cosine_similarity(-a, -b, dim=0) for a, b in zip(x, d, strict=True)])
                    small = 1 / (torch.stack([a.norm() / len(a) for a in x]) + 1e-6)
                    scores = 0.5 * F.normalize(cosine, dim=0) + 0.5 * F.normalize(small, dim=0)
                    chosen = set(scores.topk(int(len(x) * settings.fraction)).indices.tolist())
                for name, parameter in parameters.items():
                    parameter -= sgd.learning_rate * direction[name]
                for number in chosen or ():
                    norm, inner = x[number].norm(), x[number] @ d[number]
                    penalty = settings.penalty
                    if inner < 0:
                        lower, upper = -inner / norm, -(d[number] @ d[number]) * norm / inner
                        penalty = min(max(2 * lower, penalty), 10 * penalty)
                        penalty = (lower + upper) / 2 if penalty >= upper else penalty
                    new = x[number] - sgd.learning_rate * (d[number] + penalty * x[number] / (norm + 1e-8))
                    if norm == 0 or new @ x[number] < settings.epsilon * norm**2:
                        new = torch.zeros_like(new)
                    for name, index in places[number]:
                        size = parameters[name][index].numel()
                        parameters[name][index] = new[:size].view(parameters[name][index].shape)
                        new = new[size:]
    return chosen, {number for number, channel in enumerate(places) if not read(parameters, channel).any()}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_dhspg_chooses_and_zeroes_what_the_authors_code_would(momentum, dataset):
    """Weight decay and momentum go into the scores, and the penalty does not go into the momentum."""
    settings, sgd = with_(penalty=1.0), SGD.model_copy(update={"momentum": momentum, "nesterov": False})
    network = networks.build("lenet5", 1, 8, 3)
    candidates = candidates_of(network, dataset)
    chosen, zero = plainly(copy.deepcopy(network), candidates.groups, dataset, settings, sgd, 1)
    found = []

    class Watch(HalfSpace):
        def end_epoch(self, last):
            found.append(self.zero.clone())
            super().end_epoch(last)

    sparsifier = Watch(network, candidates.groups, candidates.masks, settings)
    fit(network, candidates.masks, dataset, settings, sparsifier, sgd)
    assert set(sparsifier.chosen.nonzero().flatten().tolist()) == chosen
    assert set(found[-1].nonzero().flatten().tolist()) == zero
    assert 0 < len(zero) < len(chosen)


def images(n):
    return torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8)


@pytest.fixture
def dataset():
    def split(n):
        labels = torch.arange(n) % 3
        return Split((images(n) // 4 + 60 * labels.view(-1, 1, 1, 1).to(torch.uint8)), labels)

    return Dataset(
        {"train": split(66), "validation": split(12)}, torch.tensor([0.5]), torch.tensor([0.25]), list("abc")
    )


def fit(network, masks, dataset, settings, sparsifier, sgd=SGD):
    stop = FixedEpochs(settings.epochs)
    train(network, masks, dataset, sgd, "none", stop, seed=1, clock=Clock(), label="test", sparsifier=sparsifier)


def candidates_of(network, dataset, masks=None):
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    return Candidates(network, masks or masking.ones(network), 1, dataset, 0, lambda point: state)


STRONG = {"penalty": 0.3, "epsilon": 0.9, "epochs": 4}  # reaches its zeros within a few steps


@pytest.mark.parametrize("form", ["hspg", "dhspg"])
@pytest.mark.parametrize("name", ["lenet5", "vgg11_bn", "resnet18", "vit"])
def test_what_is_zero_can_be_deleted_without_a_change(name, form, dataset):
    settings = with_(form=form, **STRONG)
    network = slim(name, 1, 8, 3)
    candidates = candidates_of(network, dataset)
    sparsifier = recipe(settings).while_training(candidates)
    fit(network, candidates.masks, dataset, settings, sparsifier)
    masks = sparsifier.masks()
    trained = copy.deepcopy(network).eval()
    masking.apply(network, masks)
    total = sum(group.size for group in candidates.groups)
    gone = int(sparsifier.zero.sum())
    assert gone == total // 2 if form == "dhspg" else 0 < gone <= total // 2
    alive = channels.alive(candidates.groups, masks)
    assert torch.equal(torch.cat([alive[group.name] for group in candidates.groups]), ~sparsifier.zero)
    assert all(mask.any() for mask in alive.values())
    probe = torch.randn(8, 1, 8, 8)
    with torch.no_grad():
        expected = trained(probe)
        assert expected.isfinite().all()
        torch.testing.assert_close(network.eval()(probe), expected, atol=1e-6, rtol=1e-6)
        compact = channels.compact(trained, candidates.groups, masks)
        torch.testing.assert_close(compact(probe), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_zeros_hold_through_momentum_and_weight_decay_and_nothing_else_is_touched(clip_norm, dataset, small_network):
    settings = with_(form="hspg", **STRONG)
    candidates = candidates_of(small_network, dataset)
    inner = recipe(settings).while_training(candidates)
    written = {part.parameter: part for group in candidates.groups for part in group.writes}
    parameters = dict(small_network.named_parameters())
    others = [parameter for name, parameter in parameters.items() if name not in written]
    assert len(others) == 2  # of the classifier
    seen = []

    class Watch:
        def gradients(self):
            before = [p.grad.clone() for p in others]
            inner.gradients()
            assert all(torch.equal(p.grad, old) for p, old in zip(others, before, strict=True))

        def project(self, epoch, rate):
            before = [p.detach().clone() for p in parameters.values()]
            inner.project(epoch, rate)
            starts = {"0": 0, "5": 4}
            for (name, parameter), old in zip(parameters.items(), before, strict=True):
                if name not in written:
                    assert torch.equal(parameter, old)
                    continue
                start = starts["5" if name.startswith("5") else "0"]
                zero = inner.zero[start : start + len(parameter)]
                assert (parameter[zero] == 0).all() and torch.equal(parameter[~zero], old[~zero])
            assert not seen or (inner.zero | ~seen[-1]).all()
            seen.append(inner.zero.clone())

        def end_epoch(self, last):
            inner.end_epoch(last)

    fit(small_network, candidates.masks, dataset, settings, Watch(), SGD.model_copy(update={"clip_norm": clip_norm}))
    assert 0 < seen[-1].sum() <= 6
    assert seen[-1].sum() == 6 or clip_norm


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.7, 0.95])
def test_dhspg_meets_its_count_when_the_last_step_is_taken(fraction, dataset, small_network):
    """The history's last accuracy is that of the pruned network: nothing is left for ``masks`` to remove."""
    settings = with_(fraction=fraction, penalty=1e-4, epsilon=0.0)
    candidates = candidates_of(small_network, dataset)
    sparsifier = recipe(settings).while_training(candidates)
    fit(small_network, candidates.masks, dataset, settings, sparsifier)
    expected = min(int(fraction * 12), 10)  # one channel stays of each of the two groups
    assert int(sparsifier.zero.sum()) == expected
    before = {name: tensor.clone() for name, tensor in small_network.state_dict().items()}
    alive = channels.alive(candidates.groups, sparsifier.masks())
    assert sum(int(mask.sum()) for mask in alive.values()) == 12 - expected
    assert all(mask.any() for mask in alive.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in small_network.state_dict().items())


@pytest.mark.parametrize(("fraction", "expected"), [(0.5, [12, 6, 3, 2]), (0.05, [12, 12, 11, 11])])
def test_iterations_nest_and_a_fraction_is_of_what_is_left(fraction, expected, dataset, small_network):
    candidates = candidates_of(small_network, dataset)
    left, settings = [12], with_(fraction=fraction)
    for t in (1, 2, 3):
        candidates = replace(candidates, iteration=t)
        sparsifier = recipe(settings).while_training(candidates)
        fit(small_network, candidates.masks, dataset, settings, sparsifier)
        masks = sparsifier.masks()
        assert all(not (masks[name] & ~candidates.masks[name]).any() for name in masks)
        alive = channels.alive(candidates.groups, masks)
        left.append(sum(int(mask.sum()) for mask in alive.values()))
        candidates = candidates.at(masks)
    assert left == expected


def test_a_fraction_of_nothing_trains_as_if_there_were_no_sparsifier(dataset, small_network):
    """As when a ratio is imposed that has been reached already."""
    other = copy.deepcopy(small_network)
    candidates = candidates_of(small_network, dataset)
    sparsifier = recipe(with_(fraction=0.0)).while_training(candidates)
    fit(small_network, candidates.masks, dataset, SETTINGS, sparsifier)
    fit(other, candidates.masks, dataset, SETTINGS, None)
    state = other.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in small_network.state_dict().items())
    assert all(mask.all() for mask in sparsifier.masks().values())


@pytest.mark.parametrize("name", ["resnet18", "vit", "lenet5"])
def test_sums_over_channels_are_those_of_a_loop(name, dataset):
    network = slim(name, 1, 8, 3)
    groups = candidates_of(network, dataset).groups
    whole = Channels(network, groups)
    expected, sizes = [], []
    for group in groups:
        for channel in range(group.size):
            rows = [network.get_parameter(part.parameter)[part.index[channel]] for part in group.writes]
            expected.append(sum(row.square().sum() for row in rows))
            sizes.append(sum(row.numel() for row in rows))
    found = whole.dot(whole.parameters, whole.parameters)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-7)
    assert whole.numel.tolist() == sizes


def test_warmup_must_end_before_training_does():
    with pytest.raises(ValidationError, match="must have warmup_epochs < epochs, got warmup_epochs: 3, epochs: 3"):
        Settings(**SETTINGS.model_dump() | {"warmup_epochs": 3})
