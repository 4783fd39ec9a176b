"""IterSNIP: which images its scores are made of."""

import itertools
from dataclasses import replace

import pytest
import torch

from prunus.methods import iter_snip
from scoring import candidates, dataset, prune_of


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
