"""The null that InCoP has to beat: SAP's masks and InCoP's rewinding, a fixed number of epochs, no look at any flow.

After rewinding to trained weights one epoch may be all that is needed; whatever a flow rule saves against SAP has to
be compared with this.
"""

from prunus.pruning.ranked import Ranked
from prunus.pruning.recipe import Recipe, Rewind
from prunus.pruning.scores import ScoredSettings
from prunus.pruning.settings import FixedEpochsSettings, PQSettings


class Settings(PQSettings, ScoredSettings, FixedEpochsSettings):
    """The null: SAP's masks and InCoP's rewinding, a fixed number of epochs."""


def recipe(settings: Settings) -> Recipe:
    return Recipe(
        prune=Ranked(score=settings.score_of, amount=settings.amount, scope=settings.scope),
        rewind=Rewind(settings.rewind),
        retrain=settings.stop_rule,
    )
