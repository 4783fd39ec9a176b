"""SOSP-H against an explicit Hessian."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from prunus.channels.groups import Group, Slice
from prunus.methods import sosp_h


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
