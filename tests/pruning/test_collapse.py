"""A layer without weights ends an iteration with one line that says what to change."""

from importlib import import_module

import pytest
import torch
import yaml

from prune_iteration import refuse_empty_layers
from prunus import masks
from prunus.run.errors import StageError
from prunus.study import layout

BLOCKS = yaml.safe_load((layout.ROOT / layout.PARAMS).read_text())["methods"]


def refused(small_network, method, imposed=None):
    kept = masks.ones(small_network)
    kept["5.weight"] = torch.zeros_like(kept["5.weight"])
    settings = import_module(f"prunus.methods.{method}").Settings.model_validate(BLOCKS[method])
    with pytest.raises(StageError) as raised:
        refuse_empty_layers(kept, f"seed 0 {method} iteration 2", method, settings, imposed)
    assert raised.value.kind == "collapsed"
    assert raised.value.density == pytest.approx((36 + 24) / (36 + 128 + 24))
    return str(raised.value)


def test_the_line_names_the_layer_the_density_and_the_method_s_own_settings(small_network):
    assert refused(small_network, "sap") == (
        "seed 0 sap iteration 2: no weight is left in 5 (density 31.9 %); lower methods.sap.beta, lower "
        "methods.sap.gamma, set methods.sap.scope: layer or list fewer study.iterations"
    )
    assert "; lower methods.lth.fraction, set methods.lth.scope: layer or list" in refused(small_network, "lth")
    assert "; lower methods.mipp.confidence or list fewer study.iterations" in refused(small_network, "mipp")
    said = refused(small_network, "thinet", "mipp")
    assert "take thinet out of imposed.methods or list fewer study.iterations" in said and "fraction" not in said


def test_a_layer_with_one_weight_left_is_no_collapse(small_network):
    kept = {name: torch.zeros_like(mask) for name, mask in masks.ones(small_network).items()}
    for mask in kept.values():
        mask.view(-1)[0] = True
    refuse_empty_layers(kept, "seed 0 sap iteration 2", "sap", None, None)
