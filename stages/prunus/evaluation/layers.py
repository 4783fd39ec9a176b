"""How sparse a network's layers are: one row per prunable parameter, with the PQ and the Gini index of what is left."""

from torch import nn

from prunus.masks import Masks, prunable
from prunus.sparsity import gini_index, pq_index

# The columns of ``layer_table`` and their types.
LAYER_COLUMNS = {
    "layer": str,
    "prunable": int,
    "alive": int,
    "density": float,
    "pq_index": float | None,
    "gini_index": float | None,
    "macs": int,
}


def layer_table(network: nn.Module, masks: Masks, macs: dict[str, int]) -> list[dict]:
    """One row (keys: LAYER_COLUMNS) per prunable parameter.

    The indices are those of the alive weights, the PQ index at p = 0.5, q = 1, the setting in which it equals one
    minus SAP's kept share; None where all alive weights are zero. ``macs`` as ``multiply_accumulates`` returns it.
    """
    weights = prunable(network)
    rows = []
    for name, mask in masks.items():
        alive = weights[name].detach()[mask]
        defined = bool(alive.any())
        rows.append(
            {
                "layer": name.removesuffix(".weight"),
                "prunable": mask.numel(),
                "alive": alive.numel(),
                "density": alive.numel() / mask.numel(),
                "pq_index": pq_index(alive, 0.5, 1.0) if defined else None,
                "gini_index": gini_index(alive) if defined else None,
                "macs": macs[name.removesuffix(".weight")],
            }
        )
    return rows
