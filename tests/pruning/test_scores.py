"""The scores a recipe chooses from: closed forms, independent oracles, and what they look at."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from prunus import masks as masking
from prunus import methods
from prunus.flow import gradient_saliency, information_saliency
from prunus.pruning import scores
from prunus.pruning.gradients import sensitivity
from prunus.sparsity import FractionAmount, floor_count, gini_index, hoyer_index, pq_index
from prunus.study import params

PROJECT = params.read()


@pytest.fixture
def candidates(small_network, candidates_of):
    masks = {name: torch.rand(mask.shape) < 0.7 for name, mask in masking.ones(small_network).items()}
    masking.apply(small_network, masks)
    return candidates_of(small_network, masks)


def lamp(weights):
    """Lee et al., term by term: sorted ascending by square, score(u) = W[u]^2 / sum over v >= u of W[v]^2."""
    order = sorted(range(len(weights)), key=lambda index: weights[index] ** 2)
    squares = [weights[index] ** 2 for index in order]
    result = [0.0] * len(weights)
    for place, index in enumerate(order):
        result[index] = squares[place] / sum(squares[place:])
    return result


def test_layerwise_is_the_papers_formula_among_the_alive(candidates):
    found = scores.layerwise(candidates)
    for name, weight in candidates.current.items():
        mask = candidates.masks[name]
        assert found[name][mask].tolist() == pytest.approx(lamp(weight[mask].tolist()), rel=1e-9)
        assert (found[name][~mask] == 0).all()
        assert found[name].max() == 1


def test_layerwise_breaks_ties_by_order_and_survives_zeros():
    weight, mask = torch.tensor([[2.0, -2.0, 0.0], [1.0, 9.0, 0.0]]), torch.ones(2, 3, dtype=torch.bool)
    mask[1, 1] = False
    found = scores._importance(weight, mask)
    assert found.flatten().tolist() == pytest.approx([4 / 8, 1.0, 0.0, 1 / 9, 0.0, 0.0])
    assert scores._importance(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)).count_nonzero() == 0


def test_a_global_threshold_on_layerwise_empties_no_layer_and_does_not_see_its_scale(candidates):
    amount = FractionAmount(0.9)
    kept = masking.prune(scores.layerwise(candidates), candidates.current, candidates.masks, "global", amount)
    assert all(mask.any() for mask in kept.values())
    with torch.no_grad():
        candidates.network[5].weight *= 1e-3
    again = masking.prune(scores.layerwise(candidates), candidates.current, candidates.masks, "global", amount)
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_synaptic_is_weight_times_slope_of_the_mean_loss_on_the_whole_sample(candidates, monkeypatch):
    monkeypatch.setattr(scores, "GRAPH_IMAGES", 7)
    found = scores.synaptic(candidates)
    images, labels = candidates.flow_sample
    network = candidates.networks("current")
    F.cross_entropy(network(images), labels).backward()
    for name, weight in masking.prunable(network).items():
        torch.testing.assert_close(found[name], (weight * weight.grad).abs().detach(), rtol=1e-4, atol=1e-7)
        assert (found[name][~candidates.masks[name]] == 0).all()


def test_sensitivity_does_not_depend_on_the_batch_size_in_eval_mode(small_network):
    images, labels = torch.randn(20, 1, 8, 8), torch.arange(20) % 3
    small_network.eval()
    whole, parts = (sensitivity(small_network, images, labels, size) for size in (None, 6))
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-4, atol=1e-7)


def test_flow_scores_are_the_flows_derivatives_on_a_bounded_part_of_the_sample(candidates, monkeypatch):
    monkeypatch.setattr(scores, "GRAPH_IMAGES", 30)
    images, labels = candidates.flow_sample
    network = candidates.networks("current")
    for found, expected in (
        (scores.information_flow(candidates), information_saliency(network, images[:30])),
        (scores.gradient_flow(candidates), gradient_saliency(network, images[:30], labels[:30], candidates.masks)),
    ):
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", scores.SCORES)
def test_scores_are_finite_tensors_like_the_weights_the_same_twice_and_leave_the_network_alone(name, candidates):
    before = {key: tensor.clone() for key, tensor in candidates.network.state_dict().items()}
    first, second = scores.SCORES[name](candidates), scores.SCORES[name](candidates)
    for key, weight in candidates.current.items():
        assert first[key].shape == weight.shape and first[key].isfinite().all() and not first[key].requires_grad
        assert torch.equal(first[key], second[key])
        assert (first[key] >= 0).all() and first[key].any()
    assert all(torch.equal(tensor, before[key]) for key, tensor in candidates.network.state_dict().items())


SCORED = ("lth", "sap", "incop_if", "incop_gf", "fixed_epochs", "early_stopping")
INDICES = ("pq", "gini", "hoyer")


@pytest.mark.parametrize("name", scores.SCORES)
@pytest.mark.parametrize(("method", "index"), [("lth", None), *((m, i) for m in SCORED[1:] for i in INDICES)])
def test_a_method_prunes_the_lowest_of_its_score_and_as_many_as_its_index_says(method, index, name, candidates):
    changes = {"score": name} | ({"index": index} if index else {})
    settings = PROJECT.methods[method].model_copy(update=changes)
    candidates = replace(candidates, iteration=3)
    kept = methods.recipe(method, settings).prune(candidates)
    values, weights = scores.SCORES[name](candidates), candidates.current
    gone = {key: mask & ~kept[key] for key, mask in candidates.masks.items()}
    alive = torch.cat([weight[candidates.masks[key]] for key, weight in weights.items()])
    share = {"pq": lambda w: pq_index(w, 0.5, 1.0), "gini": gini_index, "hoyer": hoyer_index}
    total = sum(weight.numel() for weight in weights.values())
    goes = floor_count(len(alive), share[index](alive)) if index else len(alive) - math.ceil(0.512 * total)
    assert masking.alive_count(gone) == goes > 0
    highest_gone = max(values[key][mask].max().item() for key, mask in gone.items() if mask.any())
    assert highest_gone <= min(values[key][mask].min().item() for key, mask in kept.items() if mask.any())


def test_every_method_with_a_score_is_tested():
    assert set(SCORED) == {name for name, settings in PROJECT.methods.items() if hasattr(settings, "score")}
