"""What is pruned counts for nothing: scores against networks with weight * mask in their forward pass, and garbage in
pruned weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from prunus import channels, methods
from prunus import masks as masking
from prunus.data.dataset import Dataset, Split
from prunus.pruning.candidates import Candidates
from prunus.pruning.recipe import Pruned
from prunus.pruning.scores import SCORES
from prunus.study import params

PROJECT = params.read()
GARBAGE = 1e6
ITERATED = {
    "synflow": {},
    "iter_snip": {"samples": 12, "redraw": False},
    "iter_grasp": {"samples_per_class": 4, "temperature": 2.0},
    "prospr": {"samples": 6, "inner_steps": 2},
}
METHODS = {  # name: (method, settings)
    **{f"{name}-weight": (name, quick | {"structure": "weight", "steps": 2}) for name, quick in ITERATED.items()},
    **{f"{name}-channel": (name, quick | {"structure": "channel", "steps": 2}) for name, quick in ITERATED.items()},
    **{f"lth-{score}": ("lth", {"score": score}) for score in SCORES},
    **{f"sap-{index}": ("sap", {"index": index}) for index in ("pq", "gini", "hoyer")},
    "one_shot": ("one_shot", {}),
    "sosp_h": ("sosp_h", {"samples": 12}),
    **{f"imp_channels-{n}": ("imp_channels", {"normalise": n}) for n in ("none", "mean", "fan_in")},
    "thinet": ("thinet", {"images_per_class": 4, "locations": 4}),
}
SCORED = [name for name in METHODS if name != "thinet"]  # thinet scores as it goes


def prune_of(name):
    method, changes = METHODS[name]
    return methods.recipe(method, PROJECT.methods[method].model_copy(update=changes)).prune


def candidates_of(network, masks, start):
    """As retrained last ``network``, as drawn and as trained dense ``start``; everything float64."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.arange(24) % 3
    mean, std = torch.full((2, 1), 0.25, dtype=torch.float64)
    data = Dataset({"train": Split(images, labels)}, mean, std, ("a", "b", "c"))
    state = start.state_dict()
    return Candidates(network, masks, 4, data, 0, lambda point: state, (data.normalise(images), labels))


def half(network, structure):
    """Masks with half of the weights, or of the channels, gone."""
    masks = {name: torch.rand_like(weight) < 0.5 for name, weight in masking.prunable(network).items()}
    if structure == "weight":
        return masks
    groups = channels.groups(network, (1, 8, 8))
    alive = {group.name: torch.arange(group.size) % 2 == 0 for group in groups}
    return channels.expand(groups, alive, masking.ones(network))


@pytest.fixture
def case(small_network, request):
    """Name, candidates with random masks, the same with garbage in all that is pruned, and the network as drawn."""
    name = request.param
    structure = "channel" if name == "thinet" else prune_of(name).structure
    drawn = small_network.double()
    with torch.no_grad():
        drawn[1].weight.copy_(torch.tensor([0.5, 1.5, 0.8, 2.0]))
        drawn[1].bias.fill_(0.3)
    retrained = copy.deepcopy(drawn)
    for parameter in retrained.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    masks = half(drawn, structure)
    dirty = [copy.deepcopy(network) for network in (retrained, drawn)]
    for network in dirty:
        for key, weight in masking.prunable(network).items():
            weight.data[~masks[key]] = GARBAGE * torch.randn_like(weight)[~masks[key]]
    for network in (retrained, drawn):
        masking.apply(network, masks)
    return name, candidates_of(retrained, masks, drawn), candidates_of(dirty[0], masks, dirty[1]), dirty


# --- the oracles: autograd with respect to w of a network that computes with w * mask ---------------------------------


class Masked:
    """A network's loss and outputs as functions of its parameters, every weight times its mask."""

    def __init__(self, network, masks, norm_on_batch):
        self.network = copy.deepcopy(network).eval()
        self.network[1].train(norm_on_batch)
        self.masks = masks
        self.parameters = {key: value.detach().clone().requires_grad_() for key, value in network.named_parameters()}
        self.weights = {key: self.parameters[key] for key in masks}

    def __call__(self, images, parameters=None):
        parameters = self.parameters if parameters is None else parameters
        masked = {key: value * self.masks[key] if key in self.masks else value for key, value in parameters.items()}
        return functional_call(self.network, masked, (images,))

    def loss(self, images, labels, parameters=None, temperature=1.0):
        return F.cross_entropy(self(images, parameters) / temperature, labels)

    def times_weights(self, tensors):
        return {k: (w * t).detach() for (k, w), t in zip(self.weights.items(), tensors, strict=True)}


def magnitude(_, masked):
    return {key: (weight * masked.masks[key]).abs().detach() for key, weight in masked.weights.items()}


def layerwise(_, masked):
    result = {}
    for key, weight in magnitude(_, masked).items():
        remaining = (weight.square() * (weight >= weight.view(-1, *[1] * weight.dim())).double()).flatten(1).sum(1)
        result[key] = torch.where(weight > 0, weight.square() / remaining.view_as(weight), 0.0)
    return result


def slope(loss, masked):
    return masked.times_weights(torch.autograd.grad(loss, list(masked.weights.values())))


def synaptic(candidates, masked):
    return {k: v.abs() for k, v in slope(masked.loss(*candidates.flow_sample), masked).items()}


def moved(flow, masked):
    effects = [
        masked.times_weights(
            torch.autograd.grad(entry, list(masked.weights.values()), retain_graph=True, materialize_grads=True)
        )
        for entry in flow
    ]
    return {key: torch.stack([effect[key] for effect in effects]).norm(dim=0) for key in masked.weights}


def information_flow(candidates, masked):
    outputs = []
    for layer in masked.network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(
                lambda _, __, output: outputs.append(output.flatten(2).mean(2) if output.dim() > 2 else output)
            )
    masked(candidates.flow_sample[0])
    units = [output.shape[1] for output in outputs]
    together = torch.corrcoef(torch.cat(outputs, 1).T).nan_to_num(0.0)
    starts = [0, units[0], units[0] + units[1]]
    flow = [
        together[starts[i] : starts[i] + units[i], starts[i + 1] : starts[i + 1] + units[i + 1]].abs().mean()
        for i in range(2)
    ]
    return moved(flow, masked)


def gradient_flow(candidates, masked):
    loss = masked.loss(*candidates.flow_sample)
    return moved(
        [g.norm() for g in torch.autograd.grad(loss, list(masked.weights.values()), create_graph=True)], masked
    )


def synflow(candidates, masked):
    for tensor in [*masked.parameters.values(), *masked.network.buffers()]:
        tensor.data = tensor.data.abs()
    return {k: v.abs() for k, v in slope(masked(torch.ones(1, 1, 8, 8, dtype=torch.float64)).sum(), masked).items()}


def iter_snip(candidates, masked):
    return {k: v.abs() for k, v in slope(masked.loss(*candidates.sample(12)), masked).items()}


def iter_grasp(candidates, masked):
    loss = masked.loss(*candidates.sample_per_class(4), temperature=2.0)
    gradients = torch.autograd.grad(loss, list(masked.weights.values()), create_graph=True)
    return slope(sum(gradient.square().sum() for gradient in gradients) / 2, masked)


def prospr(candidates, masked):
    images, labels = (part.tensor_split(3) for part in candidates.sample(18))
    factors = {key: torch.ones_like(weight, requires_grad=True) for key, weight in masked.weights.items()}
    current = {key: v * factors[key] if key in factors else v for key, v in masked.parameters.items()}
    for step in range(2):
        gradients = torch.autograd.grad(
            masked.loss(images[step], labels[step], current), list(current.values()), create_graph=True
        )
        current = {k: v - 0.1 * g for (k, v), g in zip(current.items(), gradients, strict=True)}
    gradients = torch.autograd.grad(masked.loss(images[2], labels[2], current), list(factors.values()))
    return dict(zip(factors, gradients, strict=True))


def sosp_h(candidates, masked):
    """First and second derivatives in one scale factor per channel."""
    names = {"0": ("0.weight", "0.bias", "1.weight", "1.bias"), "5": ("5.weight", "5.bias")}
    factors = {
        layer: torch.ones(len(masked.parameters[f"{layer}.bias"]), dtype=torch.float64, requires_grad=True)
        for layer in names
    }

    def gradients():
        scaled = dict(masked.parameters)
        for layer, owned in names.items():
            for key in owned:
                value = masked.parameters[key].detach()
                scaled[key] = value * factors[layer].view(-1, *[1] * (value.dim() - 1))
        loss = masked.loss(*candidates.sample(12), scaled)
        return torch.autograd.grad(loss, list(factors.values()), create_graph=True)

    first = gradients()
    second = torch.autograd.grad(sum(gradient.sum() for gradient in first), list(factors.values()))
    pairs = zip(factors, first, second, strict=True)
    return {layer: (one.abs() + two.abs() / 2).detach() for layer, one, two in pairs}


ORACLES = {
    **{f"lth-{score}": globals()[score] for score in SCORES},
    **{f"sap-{index}": magnitude for index in ("pq", "gini", "hoyer")},
    **{f"{name}-weight": globals()[name] for name in ITERATED},
    "sosp_h": sosp_h,
    "one_shot": magnitude,
}


@pytest.mark.parametrize("case", ORACLES, indirect=True)
def test_scores_are_those_of_the_network_with_weight_times_mask_in_its_forward_pass(case):
    name, clean, _, (retrained, drawn) = case
    initial = name == "one_shot" or name.split("-")[0] in ITERATED
    # The oracle is given the garbage: only its masks keep it out.
    expected = ORACLES[name](
        clean, Masked(drawn if initial else retrained, clean.masks, initial and "synflow" not in name)
    )
    found = prune_of(name).score(clean)
    assert found.keys() == expected.keys()
    for key, score in found.items():
        actual = score.abs() if name == "prospr-weight" else score
        wanted = expected[key].abs() if name == "prospr-weight" else expected[key]
        torch.testing.assert_close(actual, wanted, rtol=1e-8, atol=1e-12 * float(wanted.abs().max() or 1), msg=key)
        assert actual.any()


@pytest.mark.parametrize("case", SCORED, indirect=True)
def test_garbage_in_pruned_weights_changes_no_score_and_what_is_pruned_scores_zero(case):
    name, clean, dirty, _ = case
    scores, others = prune_of(name).score(clean), prune_of(name).score(dirty)
    channel = prune_of(name).structure == "channel"
    alive = channels.alive(clean.groups, clean.masks) if channel else clean.masks
    for key, score in scores.items():
        assert torch.equal(score, others[key])
        assert not alive[key].all() and not score[~alive[key]].any()
        assert score[alive[key]].any()


@pytest.mark.parametrize("case", METHODS, indirect=True)
def test_garbage_in_pruned_weights_changes_no_mask(case):
    name, clean, dirty, _ = case
    kept, other = (Pruned.of(prune_of(name)(case)).masks for case in (clean, dirty))
    assert 0 < masking.alive_count(kept) < masking.alive_count(clean.masks)
    assert all(torch.equal(mask, other[key]) for key, mask in kept.items())


@pytest.mark.parametrize("case", [f"{name}-channel" for name in ITERATED] + ["imp_channels-none"], indirect=True)
def test_the_scores_of_channels_are_sums_of_magnitudes_but_prosprs_which_has_one_factor_per_channel(case):
    name, clean, _, (retrained, drawn) = case
    method, _ = METHODS[name]
    if method == "imp_channels":
        weights = magnitude(clean, Masked(retrained, clean.masks, False))
    else:
        weights = globals()[method](clean, Masked(drawn, clean.masks, method != "synflow"))
    for key, score in prune_of(name).score(clean).items():
        rows = weights[f"{key}.weight"].flatten(1)
        expected = rows.sum(1).abs() if method == "prospr" else rows.abs().sum(1)
        torch.testing.assert_close(score, expected, rtol=1e-8, atol=1e-12 * float(expected.max()))
