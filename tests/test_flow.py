"""Information flow, gradient flow and their distances (T11, T12)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hostile import refusal
from prunus import flow
from prunus import masks as masking
from prunus.flow import (
    flow_distance,
    gradient_flow,
    gradient_saliency,
    information_flow,
    information_saliency,
    stale_gradient_flow,
)


@pytest.fixture
def images():
    return torch.randn(60, 1, 8, 8)


@pytest.fixture
def labels():
    return torch.randint(0, 3, (60,))


def textbook_flow(network, images, correlation):
    """Two passes over full correlation matrices, with numpy's definition of correlation."""
    outputs = []
    hooks = [
        layer.register_forward_hook(lambda module, given, out: outputs.append(out.detach().double()))
        for layer in network
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    network.eval()(images)
    for hook in hooks:
        hook.remove()
    pooled = [out.mean((2, 3)) if out.dim() == 4 else out for out in outputs]
    flows = []
    for before, after in zip(pooled[:-1], pooled[1:], strict=True):
        matrix = torch.corrcoef(torch.cat([before, after], 1).T)[: before.shape[1], before.shape[1] :]
        flows.append((matrix.abs() if correlation == "absolute" else matrix).mean())
    return torch.stack(flows)


@pytest.mark.parametrize("correlation", ["signed", "absolute"])
def test_equals_the_full_correlation_matrix(small_network, images, correlation):
    flow = information_flow(small_network, images, correlation, batch_size=7)
    assert flow.tolist() == pytest.approx(textbook_flow(small_network, images, correlation).tolist(), abs=1e-6)
    assert (flow.abs() <= 1).all()


@pytest.mark.parametrize("correlation", ["signed", "absolute"])
def test_invariant_to_rescaling_a_unit_and_to_duplicated_images(small_network, images, correlation):
    flow = information_flow(small_network, images, correlation)
    with torch.no_grad():
        small_network[-1].weight[1] *= 0.01
        small_network[-1].bias[1] += 0.1
    assert information_flow(small_network, images, correlation).tolist() == pytest.approx(flow.tolist(), abs=1e-3)
    twice = information_flow(small_network, torch.cat([images, images]), correlation)
    assert twice.tolist() == pytest.approx(flow.tolist(), abs=1e-3)


@pytest.mark.parametrize("correlation", ["signed", "absolute"])
def test_a_constant_unit_contributes_nothing(small_network, images, correlation):
    with torch.no_grad():
        small_network[5].weight[2:] = 0
        small_network[5].bias[2:] = 0.3
    flow = information_flow(small_network, images, correlation)
    assert torch.isfinite(flow).all()
    alone = nn.Sequential(*small_network[:5], nn.Linear(16, 2), nn.ReLU(), nn.Linear(2, 3))
    alone[5].weight.data, alone[5].bias.data = small_network[5].weight.data[:2], small_network[5].bias.data[:2]
    assert flow[0].item() == pytest.approx(information_flow(alone, images, correlation)[0].item() * 2 / 8, abs=1e-6)


def test_modes_hooks_and_gradients_are_left_as_they_were(small_network, images, labels):
    small_network.train()
    running = small_network[1].running_mean.clone()
    information_flow(small_network, images)
    gradient_flow(small_network, images, labels)
    assert small_network.training
    assert torch.equal(small_network[1].running_mean, running)
    assert not any(module._forward_hooks for module in small_network.modules())
    assert all(parameter.grad is None for parameter in small_network.parameters())


def test_shortcut_layers_do_not_count():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.downsample = (nn.Conv2d(1, 1, 1) for _ in range(3))

        def forward(self, x):
            return self.second(self.first(x)) + self.downsample(x)

    assert information_flow(Residual(), torch.randn(9, 1, 4, 4)).shape == (1,)


def test_linear_layers_on_tokens_are_averaged_over_the_tokens():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.hidden, self.classifier = nn.Conv2d(1, 6, 4, 4), nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.classifier(self.hidden(self.patches(x).flatten(2).transpose(1, 2)).relu().mean(1))

    network, images = Mixer(), torch.randn(40, 1, 8, 8)
    with torch.no_grad():
        patches = network.patches(images)
        hidden = network.hidden(patches.flatten(2).transpose(1, 2))
        pooled = [patches.mean((2, 3)), hidden.mean(1), network(images)]
    expected = [
        torch.corrcoef(torch.cat([a, b], 1).T)[: a.shape[1], a.shape[1] :].mean().item()
        for a, b in zip(pooled[:-1], pooled[1:], strict=True)
    ]
    assert information_flow(network, images, batch_size=7).tolist() == pytest.approx(expected, abs=1e-6)


def test_unknown_correlation_is_an_error(small_network, images):
    with pytest.raises(ValueError, match="signed, absolute"):
        information_flow(small_network, images, "squared")


def test_gradient_flow_is_the_norm_of_the_mean_loss_gradient(small_network, images, labels):
    flow = gradient_flow(small_network, images, labels, batch_size=7)
    small_network.eval()
    F.cross_entropy(small_network(images), labels).backward()
    expected = [weight.grad.norm().item() for weight in masking.prunable(small_network).values()]
    assert flow.tolist() == pytest.approx(expected, rel=1e-4)


def test_gradient_flow_sees_only_alive_weights(small_network, images, labels):
    masks = masking.ones(small_network)
    masks["5.weight"][:] = False
    masks["7.weight"][1:] = False
    masked, full = (gradient_flow(small_network, images, labels, m) for m in (masks, None))
    assert masked[0] == full[0]
    assert masked[1] == 0
    assert 0 < masked[2] < full[2]


def test_stale_gradient_flow_reads_what_the_last_batch_left(small_network, images, labels):
    F.cross_entropy(small_network(images), labels).backward()
    stale = stale_gradient_flow(small_network, batches=4)
    gradients = [weight.grad for weight in masking.prunable(small_network).values()]
    assert stale["norm"].tolist() == pytest.approx([4 / 3 * g.norm().item() for g in gradients], rel=1e-5)
    assert stale["mean"].tolist() == pytest.approx([4 / 3 * g.abs().mean().item() for g in gradients], rel=1e-5)


def test_distances():
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 0.0])
    assert flow_distance(a, b) == 5
    assert flow_distance(a, 2 * a, "cosine") == pytest.approx(0)
    assert flow_distance(a, torch.tensor([-4.0, 3.0]), "cosine") == pytest.approx(1)
    assert flow_distance(a, b, "cosine") == 1
    assert flow_distance(b, b, "cosine") == 0
    assert math.isnan(flow_distance(torch.tensor([math.nan, 1]), a))
    with pytest.raises(ValueError, match="2 and 1 layers"):
        flow_distance(a, torch.ones(1))
    with pytest.raises(ValueError, match="l2, cosine"):
        flow_distance(a, b, "l1")


def flow_and_saliency(kind, images, labels, masks):
    """What is measured of a network, and what is said to be each weight's part in it."""
    if kind == "information":
        return (
            lambda network: information_flow(network, images, "absolute"),
            lambda network: information_saliency(network, images),
        )
    return (
        lambda network: gradient_flow(network, images, labels, masks),
        lambda network: gradient_saliency(network, images, labels, masks),
    )


@pytest.mark.parametrize("kind", ["information", "gradient"])
def test_saliency_is_the_change_of_the_measured_flow_when_a_weight_shrinks(kind, small_network, images, labels):
    network = small_network.double()
    masks = {name: torch.rand(mask.shape) < 0.7 for name, mask in masking.ones(network).items()}
    masking.apply(network, masks)
    measure, saliency = flow_and_saliency(kind, images.double(), labels, masks)
    found, step = saliency(network), 1e-5
    for name, weight in masking.prunable(network).items():
        assert (found[name][~masks[name]] == 0).all()
        flat, original = weight.data.view(-1), weight.detach().clone().view(-1)
        expected = []
        for index in range(0, len(flat), 5):
            flows = []
            for factor in (1 - step, 1 + step):
                flat[index] = original[index] * factor
                flows.append(measure(network))
            flat[index] = original[index]
            expected.append(((flows[1] - flows[0]).norm() / (2 * step)).item())
        assert found[name].flatten()[::5].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7)
        assert max(expected) > 1e-3


@pytest.mark.parametrize("kind", ["information", "gradient"])
def test_saliency_is_finite_where_units_are_constant_and_layers_empty(kind, small_network, images, labels):
    masks = masking.ones(small_network)
    masks["5.weight"][2:] = False
    masks["0.weight"][:2] = False
    masking.apply(small_network, masks)
    _, saliency = flow_and_saliency(kind, images, labels, masks)
    for name, values in saliency(small_network).items():
        assert values.isfinite().all() and (values[~masks[name]] == 0).all()
    masks["7.weight"][:] = False
    masking.apply(small_network, masks)
    assert all(values.isfinite().all() for values in saliency(small_network).values())


@pytest.mark.parametrize("kind", ["information", "gradient"])
def test_saliency_leaves_the_network_as_it_was(kind, small_network, images, labels):
    small_network.train()
    state = {name: tensor.clone() for name, tensor in small_network.state_dict().items()}
    flow_and_saliency(kind, images, labels, None)[1](small_network)
    assert small_network.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in small_network.state_dict().items())
    assert all(parameter.grad is None for parameter in small_network.parameters())
    assert not any(module._forward_hooks for module in small_network.modules())


def test_a_flow_that_is_not_finite_says_why(lagging):
    images, labels = torch.randn(20, 1, 8, 8), torch.arange(20) % 3
    found = flow.information_flow(lagging.train(), images, "absolute")
    said = refusal(flow.finite, found, "the flow", lagging, images, kind="not_finite")
    assert said.startswith("the flow is not finite in ") and "with the running statistics of batch norm" in said
    assert lagging.training
    gradient = flow.gradient_flow(lagging, images, labels)
    said = refusal(flow.finite, gradient, "the flow", lagging, images, labels, kind="not_finite")
    assert "running statistics" in said
    good = torch.tensor([1.0, 0.0])
    assert flow.finite(good, "the flow", lagging) is good
