"""The vision transformer: size, weights, attention."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from example_networks import on_meta
from prunus import networks
from prunus.networks import vit
from prunus.study import catalogue


def test_vit_has_the_size_of_its_formula():
    tokens, width, hidden = 49, 96, 192
    block = 2 * 2 * width + 4 * (width**2 + width) + (2 * width * hidden + hidden + width)
    ends = (16 * width + width) + tokens * width + 2 * width + (10 * width + 10)
    assert sum(p.numel() for p in on_meta("vit", 1, 28, 10).parameters()) == 4 * block + ends


def test_vit_weights_are_drawn_truncated_normal():
    network = networks.build("vit", 3, 32, 10)
    for parameter in (network.position, *(m.weight for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))):
        assert parameter.std().item() == pytest.approx(0.02, rel=0.1)
    assert not any(m.bias.any() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def test_attention_is_torchs_attention():
    attention = vit.Attention(12, heads=3)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True)
    layers = attention.query, attention.key, attention.value
    theirs.in_proj_weight.data = torch.cat([layer.weight for layer in layers])
    theirs.in_proj_bias.data = torch.cat([layer.bias for layer in layers])
    theirs.out_proj = attention.projection
    tokens = torch.randn(2, 5, 12)
    torch.testing.assert_close(attention(tokens), theirs(tokens, tokens, tokens)[0])


def test_vit_is_twice_differentiable_and_runs_under_functional_transforms():
    network = vit.VisionTransformer(1, 8, 3, width=8, depth=1, heads=2).double()
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def outputs(query: torch.Tensor) -> torch.Tensor:
        return functional_call(network, weights | {"blocks.0.attention.query.weight": query}, images)

    query = (10 * weights["blocks.0.attention.query.weight"]).requires_grad_()
    assert torch.autograd.gradgradcheck(outputs, query)
    assert torch.func.jacrev(outputs)(query).shape == (2, 3, 8, 8)


def test_a_side_that_patches_do_not_cover_is_refused():
    with pytest.raises(networks.NetworkError, match=r"^vit needs an image side that is a multiple of 4, got 30$"):
        networks.build("vit", 1, 30, 10)
    assert catalogue.misfit("image_folder", "vit", 30, False) == (
        "needs an image side that is a multiple of 4, image_folder has 30"
    )
    assert catalogue.misfit("image_folder", "vit", 32, False) is None
