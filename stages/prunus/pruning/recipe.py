"""What a pruning method is made of: what goes, where the survivors restart, when retraining ends.

A method file under ``methods/`` holds ``Settings`` (its block of params.yaml, validated) and ``recipe(settings)``,
which composes a ``Recipe`` from the parts here or from its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import nn

from prunus.masks import Masks, prunable
from prunus.pruning.candidates import Candidates, Retraining, Weights
from prunus.training import loop
from prunus.training.stopping import StopRule


@dataclass(frozen=True)
class Pruned:
    """The result of pruning: the next ``masks``, and by parameter name the ``weights`` whose survivors the method
    changed as it chose them, pruned ones at zero. All other survivors are as they were."""

    masks: Masks
    weights: Weights = field(default_factory=dict)

    @staticmethod
    def of(result: "Masks | Pruned") -> "Pruned":
        """What ``Recipe.prune`` returned, as one type."""
        return result if isinstance(result, Pruned) else Pruned(result)


@dataclass(frozen=True)
class Rewind:
    """Where the survivors restart: at the dense network's weights of ``point``, or where they are (none).

    ``norms_stay``: scales and statistics of norms stay as the last retraining left them (InCoP's code).
    """

    point: Literal["initial", "warmup", "trained", "none"]
    norms_stay: bool = False

    def restart(self, network: nn.Module, states: Callable[[str], Weights]) -> None:
        """Put ``network`` back, in place, to the state that ``states`` gives for the point, a ``state_dict`` of the
        dense network. Pruned weights get their value too: training masks them."""
        if self.point == "none":
            return
        state = states(self.point)
        if self.norms_stay:
            weights = prunable(network)
            state = {name: state[name] for name in state if name in weights or name.endswith("bias")}
        network.load_state_dict(state, strict=not self.norms_stay)


class Sparsifier(loop.Sparsifier, Protocol):
    """Pruning while training: what the loop calls, and at the end what has been set to zero.

    ``masks`` are the masks once training has ended, nested in those it was made with.
    """

    def masks(self) -> Masks: ...


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One pruning method: one iteration of a chain is ``prune``, ``rewind``, ``retrain``.

    ``prune``: from what the last iteration left, the masks of the next, nested in its masks. It must not change what it
    looks at: a method that changes weights as it prunes returns them (``Pruned``). ``Ranked`` makes the usual one.
    ``rewind``: where the survivors restart. ``retrain``: the rule by which retraining ends. ``while_training``: what
    prunes during retraining, of the candidates whose network is the one about to be trained, after pruning and
    rewinding.
    """

    prune: Callable[[Candidates], Masks | Pruned]
    rewind: Rewind
    retrain: Callable[[Retraining], StopRule]
    while_training: Callable[[Candidates], Sparsifier] | None = None


def nothing(candidates: Candidates) -> Masks:
    """The ``prune`` of a method that prunes only while it trains: the masks stay as they are."""
    return candidates.masks
