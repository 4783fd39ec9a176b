"""Many small networks side by side come to what they come to alone."""

import torch

from features import bits, data_of, normal
from prunus.information import mlp


def test_batches_do_not_depend_on_the_chunk_size():
    x = bits(600, 3, 0).double()
    features = torch.cat([x, x[:, :1], normal(600, 2, 1)], 1)
    data = data_of(features, (x[:, 0].bool() ^ x[:, 1].bool()).double() + x[:, 2] + 0.1 * normal(600, 1, 2)[:, 0])
    removals = [(0,), (1,), (2,), (0, 3), (0, 4), (0, 4, 5), (4, 5)]
    verdicts, fulls = [], []
    for memory in (1, 2**21, 2**30):
        fitted = mlp.MLP(data, 0, memory=memory)
        limit = float(fitted.full.mean()) * 1.05

        def passed(ids, losses, limit=limit):
            return 2 * (losses.mean(0) <= limit,)

        found, losses = fitted.passes(removals, passed)
        assert all((float(losses[:, k].mean()) <= limit) == good for k, good in enumerate(found) if losses[0, k] < 1e9)
        verdicts.append(found)
        fulls.append(fitted.full)
    assert verdicts[0] == [True, False, False, False, True, True, True]
    assert verdicts[1] == verdicts[0] == verdicts[2]
    assert torch.equal(fulls[0], fulls[2])
