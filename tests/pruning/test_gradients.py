"""Scores from gradients and magnitudes, against path sums, finite differences, explicit Hessians and sums by hand."""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from prunus import channels, methods, networks
from prunus import masks as masking
from prunus.channels.groups import Group, Slice
from prunus.data.dataset import Dataset, Split
from prunus.methods import imp_channels, iter_grasp, iter_snip, prospr, sosp_h, synflow
from prunus.pruning.candidates import Candidates
from prunus.pruning.ranked import Ranked

COMMON = {"fraction": 0.3, "scope": "global", "rewind": "initial", "epochs": 1}
ITERATED = COMMON | {"structure": "weight", "steps": 1}
SETTINGS = {
    "synflow": synflow.Settings(**ITERATED),
    "iter_snip": iter_snip.Settings(**ITERATED, samples=12, redraw=False),
    "iter_grasp": iter_grasp.Settings(**ITERATED, samples_per_class=4, temperature=2.0),
    "prospr": prospr.Settings(**ITERATED, samples=6, inner_steps=2, inner_rate=0.1),
    "sosp_h": sosp_h.Settings(**COMMON, samples=12),
    "imp_channels": imp_channels.Settings(**COMMON, norm="l1", normalise="none"),
}
ITERATIVE = ("synflow", "iter_snip", "iter_grasp", "prospr")
BATCH = torch.randn(12, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 3


def settings(name, **changes):
    return SETTINGS[name].model_copy(update=changes)


def prune_of(name, **changes):
    return methods.recipe(name, settings(name, **changes)).prune


def dataset(n=24, shape=(1, 8, 8), seed=0):
    """Random images; the network's input, like mean and std here, is float64."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)
    mean, std = torch.full((2, shape[0]), 0.25, dtype=torch.float64)
    return Dataset({"train": Split(images, torch.arange(n) % 3)}, mean, std, ("a", "b", "c"))


def candidates(network, data=None, masks=None, current=None):
    """Of a network as drawn; ``current``: as retrained last, if it differs."""
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    masks = masks or masking.ones(network)
    return Candidates(current or network, masks, 1, data or dataset(), 0, lambda point: state)


@pytest.fixture
def network(small_network):
    """``small_network`` in float64, its batch norm with parameters and statistics that are not 0 and 1."""
    with torch.no_grad():
        for name, tensor in small_network[1].state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.tensor([0.5, 1.5, 0.8, 2.0]) * (1 if name in ("weight", "running_var") else -0.3))
    return small_network.double()


def random_masks(network, share=0.7):
    return {name: torch.rand_like(weight) < share for name, weight in masking.prunable(network).items()}


def slope(function, tensor, direction, step=1e-5):
    """The derivative of ``function()`` as ``tensor`` moves in ``direction``, by central differences."""
    original = tensor.detach().clone()
    ends = []
    for sign in (1, -1):
        tensor.data.copy_(original + sign * step * direction)
        ends.append(float(function()))
    tensor.data.copy_(original)
    return (ends[0] - ends[1]) / (2 * step)


def unit(tensor, entry):
    direction = torch.zeros_like(tensor).flatten()
    direction[entry] = 1
    return direction.view_as(tensor)


def some_entries(tensor, n=6):
    return torch.linspace(0, tensor.numel() - 1, min(n, tensor.numel())).long().tolist()


def compare_some(scores, expected, network):
    """``scores[name]`` at some entries of every prunable weight with ``expected(weight, entry)``."""
    for name, weight in masking.prunable(network).items():
        for entry in some_entries(weight):
            assert float(scores[name].flatten()[entry]) == pytest.approx(
                expected(name, weight, entry), rel=1e-4, abs=1e-9
            )


def mean_loss(network, images=BATCH, labels=LABELS, temperature=1.0):
    with torch.no_grad():
        return F.cross_entropy(network(images) / temperature, labels)


# --- SynFlow ---------------------------------------------------------------------------------------------------------


def rectifiers(*widths):
    layers = [nn.Flatten()]
    for read, written in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(read, written, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_synflow_is_the_sum_over_all_paths_through_a_weight():
    network = rectifiers(4, 5, 6, 3)
    first, second, third = (weight.detach().double().abs() for weight in network.parameters())
    scores = list(synflow.synaptic_flow(network, (1, 2, 2)).values())
    torch.testing.assert_close(scores[0], first * (third @ second).sum(0)[:, None])
    torch.testing.assert_close(scores[1], second * third.sum(0)[:, None] * first.sum(1))
    torch.testing.assert_close(scores[2], third * (second @ first).sum(1))


def test_synflow_is_conserved_by_layer_and_by_unit():
    """T19: what enters a hidden unit leaves it, and every layer's total is R."""
    network = rectifiers(16, 30, 7, 40, 3)
    through = torch.ones(16, dtype=torch.float64)
    for weight in network.parameters():
        through = weight.detach().double().abs() @ through
    scores = list(synflow.synaptic_flow(network, (1, 4, 4)).values())
    for score in scores:
        assert float(score.sum()) == pytest.approx(float(through.sum()), rel=1e-12)
    for entering, leaving in zip(scores, scores[1:], strict=False):
        torch.testing.assert_close(entering.sum(1), leaving.sum(0))


def test_synflow_takes_absolute_values_of_parameters_and_statistics_in_eval_mode(network):
    assert (network[1].running_mean < 0).any() and (network[1].bias < 0).any()
    reference = copy.deepcopy(network).eval()
    for tensor in [*reference.parameters(), *reference.buffers()]:
        tensor.data = tensor.data.abs()
    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)

    def outputs():
        with torch.no_grad():
            return reference(ones).sum()

    def expected(name, _, entry):
        weight = reference.get_parameter(name)
        return float(weight.detach().flatten()[entry]) * slope(outputs, weight, unit(weight, entry))

    compare_some(synflow.synaptic_flow(network, (1, 8, 8)), expected, reference)


def test_synflow_of_a_deep_network_is_finite_where_single_precision_is_not():
    scores = synflow.synaptic_flow(networks.build("resnet50", 3, 32, 10), (3, 32, 32))
    assert all(score.isfinite().all() and (score >= 0).all() and (score > 0).any() for score in scores.values())
    assert max(float(score.sum()) for score in scores.values()) > torch.finfo(torch.float32).max


def test_synflow_does_not_look_at_the_data():
    network = rectifiers(64, 20, 10, 3)
    masks = [prune_of("synflow", steps=5)(candidates(network, dataset(n, seed=seed))) for n, seed in ((24, 0), (5, 9))]
    for name, mask in masks[0].items():
        assert torch.equal(mask, masks[1][name])


def test_iterated_synflow_leaves_no_layer_empty_where_one_shot_and_magnitude_do():
    """T19: 1 weight in 1,000 of a network whose layers hold 60 to 40,000."""
    network = rectifiers(64, 200, 200, 20, 3)
    sample = candidates(network)

    def one_shot_magnitude(candidates):
        return {name: weight.abs() for name, weight in candidates.current.items()}

    def pruned(score, steps):
        amount = settings("synflow", fraction=0.999).amount
        return Ranked(score=score, amount=amount, scope="global", steps=steps)(sample)

    score = prune_of("synflow").score
    assert masking.collapsed(pruned(score, steps=1))
    assert masking.collapsed(pruned(one_shot_magnitude, steps=1))
    masks = prune_of("synflow", fraction=0.999, steps=100)(sample)
    assert masking.alive_count(masks) == 56860 - math.floor(0.999 * 56860)
    assert not masking.collapsed(masks)
    masking.apply(network, masks)
    through = torch.ones(64)
    for weight in network.parameters():
        through = weight.abs() @ through
    assert through.sum() > 0, "no path is left from the inputs to the outputs"


def test_the_size_of_the_weights_means_nothing_where_layer_norm_follows():
    """Why SynFlow and a vision transformer do not fit: R does not see how large the weights are."""
    network = networks.build("vit", 1, 8, 3).double().eval()

    def flow():
        with torch.no_grad():
            return float(network(torch.ones(1, 1, 8, 8, dtype=torch.float64)).sum())

    def enlarge(factor):
        with torch.no_grad():
            for name, tensor in network.named_parameters():
                if name.startswith(("patches", "position")) or ".projection" in name or ".output" in name:
                    tensor.mul_(factor)

    enlarge(1e4)  # past the epsilon of layer norm
    before = flow()
    enlarge(10)
    assert flow() == pytest.approx(before, rel=1e-6)
    assert synflow.Settings.misfit(settings("synflow"), "vit", 1)
    assert not synflow.Settings.misfit(settings("synflow"), "lenet5", 1)


# --- SNIP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_sensitivity_is_the_weight_times_the_slope_of_the_loss(network, training):
    network.train(training)
    scores = iter_snip.sensitivity(network, BATCH, LABELS)

    def expected(_, weight, entry):
        return abs(
            float(weight.detach().flatten()[entry]) * slope(lambda: mean_loss(network), weight, unit(weight, entry))
        )

    compare_some(scores, expected, network)


@pytest.mark.parametrize("redraw", [True, False])
def test_iterated_snip_draws_new_images_at_every_step_and_iteration_or_none(redraw, network, monkeypatch):
    seen = []
    original = iter_snip.sensitivity
    monkeypatch.setattr(
        iter_snip,
        "sensitivity",
        lambda network, images, labels: seen.append(images) or original(network, images, labels),
    )
    sample = candidates(network, dataset(200))
    prune = prune_of("iter_snip", steps=3, redraw=redraw)
    kept = [prune(replace(sample, iteration=t)) for t in (1, 2, 1)]
    images = [part.flatten().tolist() for part in seen]
    assert len(images) == 9 and images[:3] == images[6:]  # no chance but the seed's
    assert all(torch.equal(mask, kept[2][name]) for name, mask in kept[0].items())
    different = [first != second for first, second in itertools.combinations(images[:6], 2)]
    assert all(different) if redraw else not any(different)


# --- GraSP -----------------------------------------------------------------------------------------------------------


def test_snip_and_grasp_of_two_weights_by_hand():
    """T20. Logits (a x, b x) / T, label 0: with s = sigmoid((b - a) x / T) the gradient is (-s, s) x / T."""
    (a, b), x, temperature = (0.7, -0.4), 1.3, 2.0
    network = nn.Linear(1, 2, bias=False).double()
    network.weight.data = torch.tensor([[a], [b]], dtype=torch.float64)
    image, label = torch.tensor([[x]], dtype=torch.float64), torch.tensor([0])

    s = 1 / (1 + math.exp(-(b - a) * x))
    snip = iter_snip.sensitivity(network, image, label)["weight"].flatten().tolist()
    assert snip == pytest.approx([abs(a) * s * x, abs(b) * s * x])

    s = 1 / (1 + math.exp(-(b - a) * x / temperature))
    hg = 2 * s * s * (1 - s) * (x / temperature) ** 3
    grasp = iter_grasp.preserved_flow(network, image, label, temperature)["weight"].flatten().tolist()
    assert grasp == pytest.approx([-a * hg, b * hg])


def half_flow(network, temperature):
    """g^T g / 2 over the prunable weights."""
    loss = F.cross_entropy(network(BATCH) / temperature, LABELS)
    gradients = torch.autograd.grad(loss, list(masking.prunable(network).values()))
    return sum(gradient.square().sum() for gradient in gradients) / 2


@pytest.mark.parametrize("name", ["small", "small_eval", "vit"])
def test_grasp_is_what_a_step_away_from_the_weight_takes_from_the_gradient_flow(network, name):
    if name == "vit":
        network = networks.build("vit", 1, 8, 3).double()
        for parameter in network.parameters():  # as drawn its attention is flat and scores are next to nothing
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    network.train(name != "small_eval")
    scores = iter_grasp.preserved_flow(network, BATCH, LABELS, 2.0)
    weights = masking.prunable(network)
    for key, weight in weights.items():
        entry = int(scores[key].abs().argmax())
        towards_zero = -float(weight.detach().flatten()[entry]) * unit(weight, entry)
        change = slope(lambda: half_flow(network, 2.0), weight, towards_zero, step=1e-4)
        assert change != 0
        assert float(scores[key].flatten()[entry]) == pytest.approx(-change, rel=1e-3)
    overall = torch.cat([score.flatten() for score in scores.values()])
    assert (overall < 0).any() and (overall > 0).any()


def test_grasp_first_takes_the_weight_whose_removal_raises_the_gradient_flow_most(network):
    """The largest S of the paper goes, which is the lowest of what is returned."""
    for weight in masking.prunable(network).values():
        weight.data.mul_(0.05)  # so small that a removal is a small step
    network.eval()
    before, changes = float(half_flow(network, 1.0)), {}
    for name, weight in masking.prunable(network).items():
        for entry in range(weight.numel()):
            removed = copy.deepcopy(network)
            removed.get_parameter(name).data.view(-1)[entry] = 0
            changes[name, entry] = float(half_flow(removed, 1.0)) - before
    scores = iter_grasp.preserved_flow(network, BATCH, LABELS, 1.0)
    lowest = min(changes, key=lambda key: float(scores[key[0]].flatten()[key[1]]))
    assert lowest == max(changes, key=changes.get)


def test_grasp_does_not_depend_on_the_order_of_magnitude_of_its_temperature(network):
    """At the usual 200 the scores are tiny and must still tell weights apart in single precision."""
    small = network.float()
    scores = iter_grasp.preserved_flow(small, BATCH.float(), LABELS, 200.0)
    exact = iter_grasp.preserved_flow(small.double(), BATCH, LABELS, 200.0)
    for name, score in scores.items():
        torch.testing.assert_close(
            score.double() / exact[name].abs().max(), exact[name] / exact[name].abs().max(), atol=1e-3, rtol=1e-3
        )


# --- ProsPr ----------------------------------------------------------------------------------------------------------


def after_training(network, factors, masks, batches, rate):
    """The loss on the last batch after plain SGD on the others, with torch's optimiser; masked weights stay at zero."""
    replica = copy.deepcopy(network)
    for name, weight in masking.prunable(replica).items():
        weight.data.mul_(factors[name])
    optimiser = torch.optim.SGD(replica.parameters(), lr=rate)
    for images, labels in batches[:-1]:
        optimiser.zero_grad()
        F.cross_entropy(replica(images), labels).backward()
        for name, weight in masking.prunable(replica).items():
            weight.grad.mul_(masks[name])
        optimiser.step()
    return mean_loss(replica, *batches[-1])


def batches(n):
    return [(BATCH.roll(3 * i, 0)[:6] + 0.1 * i, LABELS.roll(3 * i)[:6]) for i in range(n)]


def test_prospr_without_inner_steps_is_snip(network):
    masks = random_masks(network)
    masking.apply(network, masks)
    scores = prospr.meta_gradients(network, masks, [(BATCH, LABELS)], 0.1)
    for name, expected in iter_snip.sensitivity(network, BATCH, LABELS).items():
        torch.testing.assert_close(scores[name].abs(), expected)


@pytest.mark.parametrize("inner", [1, 2])
def test_prospr_is_the_slope_through_the_training_steps(network, inner):
    masks = random_masks(network)
    masking.apply(network, masks)
    sample = batches(inner + 1)
    scores = prospr.meta_gradients(copy.deepcopy(network), masks, sample, 0.5)
    factors = {name: torch.ones_like(weight) for name, weight in masking.prunable(network).items()}

    def expected(name, weight, entry):
        loss = lambda: after_training(network, factors, masks, sample, 0.5)  # noqa: E731
        return slope(loss, factors[name], unit(weight, entry))

    compare_some(scores, expected, network)
    snip = prospr.meta_gradients(network, masks, sample[-1:], 0.5)
    assert any((scores[name] - snip[name]).abs().max() > 1e-3 for name in scores), "the inner steps changed nothing"


def test_prospr_of_a_channel_is_the_slope_of_one_factor_on_its_incoming_weights(network):
    sample = candidates(network)
    chosen = settings("prospr", structure="channel")
    scores = methods.recipe("prospr", chosen).prune.score(sample)
    images, labels = sample.sample(18)
    parts = [(images[start : start + 6], labels[start : start + 6]) for start in (0, 6, 12)]
    reference = sample.networks("initial").train()
    factors = {name: torch.ones_like(weight) for name, weight in masking.prunable(network).items()}
    assert {name: len(score) for name, score in scores.items()} == {"0": 4, "5": 8}
    for name, score in scores.items():
        for channel, value in enumerate(score):
            rows = torch.zeros_like(factors[f"{name}.weight"])
            rows[channel] = 1
            loss = lambda: after_training(reference, factors, sample.masks, parts, 0.1)  # noqa: E731
            assert float(value) == pytest.approx(abs(slope(loss, factors[f"{name}.weight"], rows)), rel=1e-4, abs=1e-9)


def test_prospr_takes_all_its_steps_on_a_small_dataset(network, monkeypatch):
    taken = []
    original = prospr.meta_gradients
    monkeypatch.setattr(
        prospr,
        "meta_gradients",
        lambda network, masks, batches, rate: taken.extend(batches) or original(network, masks, batches, rate),
    )
    prune_of("prospr", samples=100).score(candidates(network, dataset(24)))
    assert [len(labels) for _, labels in taken] == [8, 8, 8]


# --- SOSP-H ----------------------------------------------------------------------------------------------------------


def coupled():
    """Three linear layers with a batch norm; groups of 4 and 3 channels, made by hand."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 3)
    ).double()
    network[2].weight.data.uniform_(0.5, 2)
    network[2].bias.data.normal_()
    network[2].running_mean.normal_()
    network[2].running_var.uniform_(0.5, 2)
    rows = {n: torch.arange(n)[:, None] for n in (4, 3)}
    first = [Slice(name, 0, rows[4]) for name in ("1.weight", "1.bias", "2.weight", "2.bias")]
    second = [Slice(name, 0, rows[3]) for name in ("4.weight", "4.bias")]
    return network.eval(), [
        Group("1", 4, (*first, Slice("4.weight", 1, rows[4]))),
        Group("4", 3, (*second, Slice("6.weight", 1, rows[3]))),
    ]


@pytest.mark.parametrize("batch_size", [256, 5])
def test_second_order_scores_against_the_explicit_hessian(batch_size):
    network, groups = coupled()
    images = torch.randn(13, 1, 1, 3, dtype=torch.float64)
    labels = torch.arange(13) % 3
    names = ["1.weight", "1.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
    sizes = {name: network.get_parameter(name).shape for name in names}
    flat = torch.cat([network.get_parameter(name).detach().flatten() for name in names])

    def loss(flat):
        parts = flat.split([size.numel() for size in sizes.values()])
        parameters = {name: part.view(sizes[name]) for name, part in zip(names, parts, strict=True)}
        return F.cross_entropy(functional_call(network, parameters, (images,)), labels)

    gradient = torch.autograd.functional.jacobian(loss, flat)
    hessian = torch.autograd.functional.hessian(loss, flat)
    scores = sosp_h.second_order(network, groups, images, labels, batch_size)

    owner = torch.cat([torch.arange(len(flat)) * 0 + i for i, flat in enumerate(flat.split([12, 4, 4, 4, 12, 3]))])
    row = torch.cat([torch.arange(size[0]).repeat_interleave(size[1:].numel()) for size in sizes.values()])
    for group, members in (("1", (0, 1, 2, 3)), ("4", (4, 5))):
        for channel, value in enumerate(scores[group]):
            mine = torch.isin(owner, torch.tensor(members)) & (row == channel)
            theta = torch.where(mine, flat, 0)
            expected = (theta @ gradient).abs() + 0.5 * (theta @ hessian @ flat).abs()
            assert float(value) == pytest.approx(float(expected), rel=1e-9)
            alone = (theta @ gradient).abs() + 0.5 * (theta @ hessian @ theta).abs()
            assert float(value) != pytest.approx(float(alone), rel=1e-3)  # cross-correlations count


def test_what_nothing_reads_does_not_enter_the_second_order_scores():
    """The bias and norm of a dead channel are not masked; they must not move the scores of the others."""
    network, groups = coupled()
    network[4].weight.data[:, 1] = 0
    images, labels = torch.randn(9, 1, 1, 3, dtype=torch.float64), torch.arange(9) % 3
    before = sosp_h.second_order(network, groups, images, labels)
    network[2].bias.data[1] += 5
    after = sosp_h.second_order(network, groups, images, labels)
    others = torch.tensor([True, False, True, True])
    torch.testing.assert_close(after["1"][others], before["1"][others])
    torch.testing.assert_close(after["4"], before["4"])


# --- magnitudes of channels ------------------------------------------------------------------------------------------


class Coupled(nn.Module):
    """Only parameters: two layers write three channels together, a third reads them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(4, 3), nn.Linear(3, 2)
        self.a.weight.data = torch.tensor([[1.0, -2.0], [0.0, 3.0], [4.0, 4.0]])
        self.b.weight.data = torch.tensor([[2.0, 0.0, 0.0, -2.0], [1.0, 1.0, 1.0, 1.0], [9.0, 9.0, 9.0, 9.0]])
        self.a.bias.data.fill_(100.0)  # biases do not count


@pytest.mark.parametrize(
    ("norm", "normalise", "expected"),
    [  # channel 1 has 5 living incoming weights, the others 6; channel 2 is dead
        ("l1", "none", [7, 6]),
        ("l1", "fan_in", [7 / 6, 6 / 5]),
        ("l1", "mean", [7 / 6.5, 6 / 6.5]),
        ("l2", "none", [13**0.5, 12**0.5]),
        ("l2", "fan_in", [(13 / 6) ** 0.5, (12 / 5) ** 0.5]),
        ("l2", "mean", [2 * 13**0.5 / (13**0.5 + 12**0.5), 2 * 12**0.5 / (13**0.5 + 12**0.5)]),
    ],
)
def test_channel_magnitudes_by_hand(norm, normalise, expected):
    network = Coupled()
    masks = masking.ones(network)
    masks["b.weight"][1, 3] = False
    masks["c.weight"][:, 2] = False
    rows = torch.arange(3)[:, None]
    writes = [Slice(name, 0, rows) for name in ("a.weight", "a.bias", "b.weight")]
    sample = candidates(network, masks=masks)
    vars(sample)["groups"] = [Group("a", 3, (*writes, Slice("c.weight", 1, rows)))]
    score = prune_of("imp_channels", norm=norm, normalise=normalise).score(sample)["a"]
    assert score[:2].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("scope", "kept"), [("layer", [2, 4]), ("global", [4, 2])])
def test_channels_of_small_magnitude_go_by_layer_or_globally(network, scope, kept):
    """Global: every channel of the first layer is larger than those of the second."""
    network[0].weight.data = torch.arange(1.0, 5.0, dtype=torch.float64)[:, None, None, None].expand(4, 1, 3, 3).clone()
    network[5].weight.data = torch.arange(1.0, 9.0, dtype=torch.float64)[:, None].expand(8, 16).clone() / 1000
    sample = candidates(network)
    masks = prune_of("imp_channels", scope=scope, fraction=0.5)(sample)
    alive = channels.alive(sample.groups, masks)
    assert [int(mask.sum()) for mask in alive.values()] == kept
    for mask in alive.values():
        assert mask.tolist() == sorted(mask.tolist()), "the largest stay"


# --- what they all share ---------------------------------------------------------------------------------------------


def perturbed(network):
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return other


@pytest.mark.parametrize("structure", ["weight", "channel"])
@pytest.mark.parametrize("name", ITERATIVE)
def test_the_density_falls_exponentially_to_the_exact_count_and_masks_are_nested(name, structure, network):
    sample = candidates(network)
    of = lambda masks: channels.alive(sample.groups, masks) if structure == "channel" else masks  # noqa: E731
    chosen = prune_of(name, structure=structure, steps=4)
    before = sum(mask.numel() for mask in of(sample.masks).values())
    seen = []
    masks = sample.masks
    for t in (1, 2):
        spied = replace(chosen, score=lambda given: seen.append(given.masks) or chosen.score(given), looks_at="current")
        masks = spied(replace(sample.at(masks), iteration=t))
    seen.append(masks)
    counts = [masking.alive_count(of(step)) for step in seen]
    middle = before - math.floor(0.3 * before)
    assert counts[0] == before
    assert counts[4] == middle
    assert counts[8] == math.ceil(0.49 * before)
    # one long schedule: the same factor from step to step, but for rounding
    assert counts == pytest.approx([before * 0.7 ** (step / 4) for step in range(9)], abs=1.5)
    for earlier, later in zip(seen, seen[1:], strict=False):
        for key, mask in later.items():
            assert not (mask & ~earlier[key]).any()


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_are_repeatable_and_detached_and_leave_the_network_alone(name, network):
    """Dropout, which ImageNet's VGG has, must not make them random."""
    network = nn.Sequential(*network[:-1], nn.Dropout(0.5), network[-1]).train()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    sample = candidates(network)
    first, second = prune_of(name).score(sample), prune_of(name).score(sample)
    for key, score in first.items():
        assert not score.requires_grad and score.isfinite().all()
        assert torch.equal(score, second[key])
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert network.training and all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_see_the_network_at_initialisation_or_as_retrained_last(name, network):
    score = prune_of(name).score
    as_drawn = score(candidates(network))
    retrained = score(candidates(network, current=perturbed(network)))
    same = all(torch.equal(as_drawn[key], retrained[key]) for key in as_drawn)
    assert same == (name in ITERATIVE)


@pytest.mark.parametrize("name", ITERATIVE)
def test_scores_see_the_masks(name, network):
    masks = random_masks(network)
    full, pruned = (prune_of(name).score(candidates(network, masks=masks)) for masks in (None, masks))
    for key, score in pruned.items():
        assert (score[~masks[key]] == 0).all()
        assert not torch.allclose(score[masks[key]], full[key][masks[key]])


def test_batch_norm_uses_the_batch_at_initialisation(network):
    """Statistics as drawn say nothing; with them as they are, scores would depend on them."""
    sample = candidates(network)
    before = prune_of("iter_snip").score(sample)
    sample.states("initial")["1.running_mean"] += 3
    after = prune_of("iter_snip").score(sample)
    for key, score in before.items():
        assert torch.equal(score, after[key])


@pytest.mark.parametrize("name", ["synflow", "iter_snip", "iter_grasp"])
def test_a_channel_scores_the_l1_norm_of_its_incoming_weights(name, network):
    sample = candidates(network)
    weights = {key: score.abs() for key, score in prune_of(name).score(sample).items()}
    per_channel = prune_of(name, structure="channel").score(sample)
    torch.testing.assert_close(per_channel["0"], weights["0.weight"].sum((1, 2, 3)))
    torch.testing.assert_close(per_channel["5"], weights["5.weight"].sum(1))
    assert set(per_channel) == {"0", "5"}


@pytest.mark.parametrize("network_name", ["lenet5", "vgg11_bn", "resnet18", "vit"])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_kind_of_network_can_be_scored(name, network_name):
    if SETTINGS[name].misfit(network_name, 1):
        pytest.skip(SETTINGS[name].misfit(network_name, 1))
    network = networks.build(network_name, 1, 8, 3)
    data = dataset()
    data = Dataset(data.splits, data.mean.float(), data.std.float(), data.classes)
    sample = candidates(network, data)
    for key, score in prune_of(name).score(sample).items():
        assert score.isfinite().all(), key
        if name in ITERATIVE:
            assert score.shape == sample.masks[key].shape
            assert (score != 0).any(), key


def test_a_group_of_zero_weights_has_scores(candidates_of):
    """Of a layer whose inputs have all gone nothing is left to compare: its channels are the first to go, not NaN."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    masks = masking.ones(network)
    masks["1.weight"][:], masks["3.weight"][:] = False, False
    settings = imp_channels.Settings(fraction=0.5, scope="global", norm="l1", normalise="mean", rewind="none", epochs=1)
    kept = methods.recipe("imp_channels", settings).prune(replace(candidates_of(network, masks), iteration=2))
    assert kept["5.weight"].any(0).sum() == 2
