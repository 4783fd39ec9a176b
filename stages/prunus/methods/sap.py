"""SAP, sparsity-informed adaptive pruning (Diao et al., ICLR 2023, arXiv 2302.05601, Algorithm 1).

Every iteration the PQ index of the alive weights says how many can go; the smallest magnitudes do. The paper restarts
survivors from the initial weights. Departures from the authors' code: the count is the formula's (their ceil(r) prunes
up to one less), in float64; the last epoch's weights are pruned, not those that did best on the test set.

Published are index: pq, score: magnitude and stop: fixed.
"""

from prunus.pruning.recipe import Recipe
from prunus.pruning.scores import ScoredSettings
from prunus.pruning.settings import PQSettings, StopSettings


class Settings(PQSettings, ScoredSettings, StopSettings):
    """The PQ index of the weights says how many go; the smallest magnitudes do."""


def recipe(settings: Settings) -> Recipe:
    return Recipe(settings.score_of, settings.amount, settings.scope, settings.rewind, settings.stop_rule)
