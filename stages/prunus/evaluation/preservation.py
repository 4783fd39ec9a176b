"""How much of the information between layers a pruning step leaves: what MIPP (Westphal, Hailes and Musolesi, arXiv
2411.00147) claims to preserve, I(X'_l; X_{l+1}) = I(X_l; X_{l+1}), measured for any chain.

X_l are the units of a channel group as the layers that read it see them, X_{l+1} what those layers write as the next
ones read it (``prunus.channels.readings``), in network t - 1 and of the units alive there; a unit is alive while any
weight that reads it is. The information is what a predictor explains of the target's variance on held-out images
(``predictive_information``), as a share of that variance (at most 1), so that layers and networks compare. Quantities:

``before``     I(X_l; X_{l+1}) in network t - 1, the one that is pruned.
``kept``       I(X'_l; X_{l+1}), the paper's: X'_l = m_l * X_l are those units of X_l, as network t - 1 computes them,
               that the masks of iteration t leave alive. It judges the choice of units, and of single weights only
               what they leave unread.
``pruned``     I(X'_l; X_{l+1}) with X'_l as network t - 1 computes it once pruned, before rewinding and retraining:
               under the masks of iteration t, with the weights a method changed as it chose them (ThiNet's scales).
               Pruned weights and channels before layer l count as well, whatever the structure.
``retrained``  I(X_l; X_{l+1}) in network t, both of that network and of what is alive in it: another target.
"""

import math
from collections.abc import Iterator

from torch import Tensor

from prunus.channels.groups import Group
from prunus.channels.readings import Readings
from prunus.information.estimate import predictive_information
from prunus.information.samples import standardised
from prunus.masks import Masks

QUANTITIES = ("before", "kept", "pruned", "retrained")
COLUMNS = ["layer", "next_layer", "quantity", "units", "mean", "low", "high", "variance"]


def explained(variables: Tensor, target: Tensor, **options) -> dict[str, float | None]:
    """What ``variables`` [N, units, k] explain of ``target`` [N, T]: ``mean``, ``low`` and ``high`` of the share, and
    ``variance``, the target's, summed over its columns.

    ``options`` and the interval are those of ``predictive_information``. Without units the share is 0; it is None where
    the target does not vary or a value is not finite.
    """
    variance = float(standardised(target.double())[1].square().sum()) if target.shape[1] else 0.0
    share = dict.fromkeys(("mean", "low", "high"))
    if math.isfinite(variance) and variance > 0 and variables.isfinite().all():
        share = dict.fromkeys(share, 0.0)
        if variables.shape[1]:
            estimate = predictive_information(variables.flatten(1), target, share=True, **options)
            share = {name: getattr(estimate, name) for name in share}
    return share | {"variance": variance if math.isfinite(variance) else None}


def step(
    groups: list[Group], before: tuple[Readings, Masks], pruned: Readings, after: tuple[Readings, Masks], **options
) -> Iterator[dict]:
    """A row (keys: COLUMNS) per group and quantity of iteration t.

    Arguments: ``before`` network t - 1 and ``after`` network t, each with the channels alive in it (bool [channels] by
    group, nested), ``pruned`` network t - 1 once pruned, all read on the same images; ``options``
    of ``predictive_information``. ValueError where the images are too few for the predictor.
    """
    full, alive = before
    retrained, left = after
    for group in groups:
        target = full.target(group, alive)
        stay = left[group.name]
        measured = (
            (full, alive[group.name], target),
            (full, stay, target),
            (pruned, stay, target),
            (retrained, stay, retrained.target(group, left)),
        )
        for quantity, (readings, units, target) in zip(QUANTITIES, measured, strict=True):
            yield {
                "layer": group.name,
                "next_layer": " ".join(full.readers[group.name]),
                "quantity": quantity,
                "units": int(units.sum()),
                **explained(readings.variables(group)[:, units], target, **options),
            }
