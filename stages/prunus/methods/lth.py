"""Lottery ticket hypothesis: iterative magnitude pruning with rewinding (Frankle and Carbin, ICLR 2019).

Every iteration a fixed fraction (0.2) of the weights left goes, smallest magnitude after retraining first, and the
survivors restart from the initial weights; `rewind: warmup` is the late rewinding of Frankle et al., ICML 2020. SAP's
"lottery ticket" baseline is this at rewind: initial; InCoP's rewinds to trained and prunes at scope: layer.
"""

from prunus.recipe import FixedEpochsSettings, FractionSettings, Recipe, magnitude


class Settings(FractionSettings, FixedEpochsSettings):
    pass


def recipe(settings: Settings) -> Recipe:
    return Recipe(magnitude, settings.amount, settings.scope, settings.rewind, settings.stop)
