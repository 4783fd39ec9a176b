"""Lottery ticket hypothesis: iterative magnitude pruning with rewinding (Frankle and Carbin, ICLR 2019).

The paper's strategy, from a network with initial weights theta_0 that has been trained:

1. Prune a fixed fraction (0.2) of the weights left, smallest magnitude first: (1 - fraction)^t of every group is left
   after iteration t, to within one weight.
2. Reset the survivors to their values in theta_0.
3. Train, and go on at 1.

`rewind: warmup` is the late rewinding of Frankle et al., ICML 2020 (arXiv 1912.05671): the survivors restart from the
weights after step k, and training goes on there, as in the authors' open_lth. SAP's "lottery ticket" baseline is this
at rewind: initial; InCoP's rewinds to trained and prunes at scope: layer. The paper has score: magnitude and stop:
fixed.
"""

from prunus.pruning.ranked import Ranked
from prunus.pruning.recipe import Recipe, Rewind
from prunus.pruning.scores import ScoredSettings
from prunus.pruning.settings import FractionSettings, StopSettings


class Settings(FractionSettings, ScoredSettings, StopSettings):
    """Lottery ticket: 20 % of what is left, every iteration."""


def recipe(settings: Settings) -> Recipe:
    return Recipe(
        prune=Ranked(score=settings.score_of, amount=settings.amount, scope=settings.scope),  # 1
        rewind=Rewind(settings.rewind),  # 2
        retrain=settings.stop_rule,  # 3
    )
