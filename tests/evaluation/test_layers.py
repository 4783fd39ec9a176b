"""The table of layers."""

import torch

from prunus import masks as masking
from prunus.evaluation import layers


def test_an_index_that_is_not_defined_is_an_empty_field(small_network):
    with torch.no_grad():
        small_network[5].weight.zero_()
    macs = {"0": 1, "5": 1, "7": 1}
    rows = {row["layer"]: row for row in layers.layer_table(small_network, masking.ones(small_network), macs)}
    assert rows["5"]["pq_index"] is None and rows["5"]["gini_index"] is None
    assert 0 < rows["7"]["pq_index"] < 1
