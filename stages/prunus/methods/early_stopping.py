"""The obvious alternative that InCoP has to beat: SAP's masks and InCoP's rewinding, retraining stopped by validation
accuracy, without any flow.

Retraining ends after `patience` epochs in a row without a better validation accuracy, at the latest after `max_epochs`;
the last epoch's weights are kept (Prechelt, "Early Stopping - But When?", 1998, criterion UP in its plainest form).
"""

from pydantic import Field

from prunus.pruning.candidates import Retraining
from prunus.pruning.ranked import Ranked
from prunus.pruning.recipe import Recipe, Rewind
from prunus.pruning.scores import ScoredSettings
from prunus.pruning.settings import PQSettings
from prunus.study.schema import Positive
from prunus.training.stopping import Plateau


class Settings(PQSettings, ScoredSettings):
    """The alternative: the same masks and rewinding, stopped by validation accuracy."""

    patience: Positive = Field(
        description="epochs in a row without a better validation accuracy after which retraining ends"
    )
    max_epochs: Positive = Field(description="the most epochs of a retraining")


def recipe(settings: Settings) -> Recipe:
    def until_accuracy_no_longer_improves(retraining: Retraining) -> Plateau:
        return Plateau(settings.patience, settings.max_epochs)

    return Recipe(
        prune=Ranked(score=settings.score_of, amount=settings.amount, scope=settings.scope),
        rewind=Rewind(settings.rewind),
        retrain=until_accuracy_no_longer_improves,
    )
