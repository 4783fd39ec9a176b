"""Lottery ticket hypothesis: iterative magnitude pruning with rewinding (Frankle and Carbin, ICLR 2019).

Every iteration a fixed fraction (0.2) of the weights left goes, smallest magnitude after retraining first, so that (1 -
fraction)^t of every group is left after t, but for less than a weight, and the survivors restart from the initial
weights. `rewind: warmup` is the late rewinding of Frankle et al., ICML 2020 (arXiv 1912.05671): they restart from the
weights after step k, and training goes on there, as in the authors' open_lth. SAP's "lottery ticket" baseline is this
at rewind: initial; InCoP's rewinds to trained and prunes at scope: layer. Published are score: magnitude and stop:
fixed.
"""

from prunus.pruning.recipe import Recipe
from prunus.pruning.scores import ScoredSettings
from prunus.pruning.settings import FractionSettings, StopSettings


class Settings(FractionSettings, ScoredSettings, StopSettings):
    """Lottery ticket: 20 % of what is left, every iteration."""


def recipe(settings: Settings) -> Recipe:
    return Recipe(settings.score_of, settings.amount, settings.scope, settings.rewind, settings.stop_rule)
