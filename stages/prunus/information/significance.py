"""Whether a rise of held-out losses is more than chance: Student's t for splits that overlap."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RiseTest:
    """Whether a rise of the losses is nothing: its lower bound, at ``quantile`` of Student's t, is not above a floor.

    The splits overlap, so the variance of the mean rise over R of them is that of one times 1 / R + held / fit
    (``widening``), not 1 / R: the corrected resampled t-test of Nadeau and Bengio (2003). The floor is ``nothing`` or,
    where that is more, ``chance`` times the present loss.
    """

    quantile: float
    widening: float
    nothing: float
    chance: Tensor | float = 0.0

    def lower(self, rises: Tensor) -> Tensor:
        """Lower bound of the mean over dimension 0."""
        mean, share = rises.mean(0), (1 / len(rises) + self.widening) / (len(rises) - 1)
        return mean - self.quantile * ((rises - mean).square().sum(0) * share).sqrt()

    def free(self, rises: Tensor, now: Tensor) -> Tensor:
        """``rises`` [R, C] of the losses ``now`` [R] -> bool [C]."""
        return self.lower(rises) <= (now.mean() * self.chance).clamp(min=self.nothing)


def half_width(losses: Tensor, confidence: float) -> Tensor:
    """Half the Student-t interval of the mean over dimension 0."""
    repeats = len(losses)
    return student(repeats - 1, (1 + confidence) / 2) * losses.std(0) / repeats**0.5


def student(freedom: int, level: float) -> float:
    """The value below which a Student variable lies with probability ``level``."""
    from scipy.special import stdtrit  # every stage imports the methods, and scipy takes a tenth of its start

    return float(stdtrit(freedom, level))
