"""The usual way to prune: everything alive has a score, and of each group the lowest go."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from prunus import channels
from prunus import masks as masking
from prunus.masks import Masks
from prunus.networks.inspect import why_not_finite, with_batch_statistics
from prunus.pruning.candidates import SAMPLE, Candidates, Scores
from prunus.run.errors import StageError
from prunus.sparsity import Amount


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A recipe's ``prune``: it prunes the ``amount`` with the lowest ``score`` from each group of ``scope``.

    ``score``: low = goes first, of the network with weight * mask in its forward pass: a pruned weight scores 0 and
    adds nothing to the score of another. ``amount``: how many of a group of ``scope`` (neuron, layer, global) go.
    ``structure`` weight: a score is a tensor per prunable weight; channel: a vector per channel group, and a channel
    takes its whole group along; the last living channel of a group, the one with the highest score, stays, and
    the next in rank goes instead.
    ``looks_at``: the point whose weights the score looks at, initial, trained or current. Among equal scores (all that
    is behind dead rectifiers scores 0) the smallest of these weights goes first, or the channel with the smallest L1
    norm of the alive incoming weights; entries equal in both go in memory order.
    ``steps``: how often the score is computed anew on the way to the amount, the density falling exponentially (scope
    global only).

    Raises ``StageError`` where a score has another shape than what it scores, or is not finite.
    """

    score: Callable[[Candidates], Scores]
    amount: Amount
    scope: Literal["neuron", "layer", "global"]
    structure: Literal["weight", "channel"] = "weight"
    looks_at: Literal["initial", "trained", "current"] = "current"
    steps: int = 1

    def __call__(self, candidates: Candidates) -> Masks:
        """The masks of the next iteration, nested in those of ``candidates``."""
        if self.structure == "weight":
            alive, expand, values = candidates.masks, lambda alive: alive, candidates.current
        else:
            alive = channels.alive(candidates.groups, candidates.masks)
            expand = lambda alive: channels.expand(candidates.groups, alive, candidates.masks)  # noqa: E731
            values = {name: mask.float() for name, mask in alive.items()}
        stay = None
        for step, amount in enumerate(self._amounts(alive, candidates.iteration), 1):
            now = candidates.at(expand(alive), step)
            scores, weights = self.score(now), now.weights(self.looks_at)
            self._check(scores, alive, now)
            with torch.no_grad():
                if self.structure == "channel":
                    weights = channels.sums(candidates.groups, {name: weight.abs() for name, weight in weights.items()})
                    stay = masking.prune(scores, values, alive, "layer", _all_but_one, weights)
                alive = masking.prune(scores, values, alive, self.scope, amount, weights, stay)
        return expand(alive)

    def _check(self, scores: Scores, alive: Masks, candidates: Candidates) -> None:
        """Raise ``StageError`` unless everything alive has a finite score; NaN and infinity have no rank."""
        module, name = self.score.__module__.rpartition(".")[2], getattr(self.score, "__name__", "score")
        label = f"the score {module}.{name}"
        for entry, living in alive.items():
            shape = getattr(scores.get(entry), "shape", None)
            if shape != living.shape:
                problem = "is missing" if shape is None else f"has shape {list(shape)}"
                raise StageError(f"{label} of {entry} {problem}; it must have shape {list(living.shape)}")
        not_finite = {entry: ~scores[entry].isfinite() & living for entry, living in alive.items()}
        if not torch.stack([mask.any() for mask in not_finite.values()]).any():
            return
        counts = {entry: int(mask.sum()) for entry, mask in not_finite.items()}
        first = next(entry for entry, count in counts.items() if count)
        network = candidates.networks("initial" if self.looks_at == "initial" else "current")
        network = with_batch_statistics(network) if self.looks_at == "initial" else network
        raise StageError(
            f"{label} is not finite for {sum(counts.values()):,} of {masking.alive_count(alive):,} living "
            f"{self.structure}s, first in {first}: {why_not_finite(network, *candidates.sample(SAMPLE))}",
            "not_finite",
        )

    def _amounts(self, alive: Masks, iteration: int) -> list[Amount]:
        """The amount of every scoring step."""
        amount = self.amount.at(iteration) if hasattr(self.amount, "at") else self.amount
        if self.steps == 1:
            return [amount]
        before = masking.alive_count(alive)
        rows = [mask.reshape(1, -1) for mask in alive.values()]
        [count] = amount.per_row(rows, rows)
        left = [round(before * ((before - count) / before) ** (step / self.steps)) for step in range(self.steps + 1)]
        return [lambda values, count=count: values.numel() - count for count in left[1:]]


def _all_but_one(living: Tensor) -> int:
    return max(0, len(living) - 1)
