"""The textbook form of TERC, the peer of ours in ``terc.py``: one fit per node and repeat, one after the other.

For each unit in MI order (given to it), five predictors are fitted from scratch, on our splits, without the unit and
the removed ones, and five without the removed ones after each removal; then the budget buys the cheapest, by fits
without each unit that is left. With linear predictors every unit is tested before each removal, and the cheapest free
one goes, as in ours. `mlp` is a torch module of the same 50 hidden units with torch.optim.Adam, minibatches, rates and
stopping rule as ours; `linear` is torch.linalg.lstsq with the driver `gels`, faster here than scikit-learn's Ridge.
"""

import math

import torch
from torch import Tensor, nn

from prunus.information.estimate import PREDICTORS, prepared
from prunus.information.mlp import BATCH, CHECK, FIT_PATIENCE, FIT_RATES, FIT_STEPS, GAIN, HIDDEN
from prunus.information.samples import RIDGE
from prunus.information.significance import RiseTest, student

CONFIDENCE, REGULARISATION, REPEATS = 0.95, 0.01, 5


def refit_linear(x: Tensor, y: Tensor, fit: Tensor, held: Tensor, one_hot: bool, constant: float, seed: int) -> float:
    """Held-out squared error of ridge regression with an intercept: least squares with a row for each weight, too."""
    mean, level = x[fit].mean(0), y[fit].mean(0)
    weight = (RIDGE * len(fit)) ** 0.5 * torch.eye(x.shape[1], dtype=x.dtype)
    design = torch.cat([x[fit] - mean, weight])
    wanted = torch.cat([y[fit] - level, y.new_zeros(len(weight), y.shape[1])])
    weights = torch.linalg.lstsq(design, wanted, driver="gels").solution
    return float((y[held] - level - (x[held] - mean) @ weights).square().sum(1).mean())


def refit_mlp(x: Tensor, y: Tensor, fit: Tensor, held: Tensor, one_hot: bool, constant: float, seed: int) -> float:
    """Least held-out loss of one network, trained from its initialisation until it stops gaining at both rates."""
    if not x.shape[1]:
        return constant
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(x.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, y.shape[1]))
    criterion = nn.CrossEntropyLoss() if one_hot else lambda output, target: (output - target).square().sum(1).mean()
    x, y = x.float(), y.float()
    x_fit, y_fit, x_held, y_held = x[fit], y[fit], x[held], y[held]
    steps_per_pass = max(1, len(fit) // BATCH)
    best, mark, state, step = math.inf, math.inf, network.state_dict(), 0
    for rate in FIT_RATES:
        network.load_state_dict(state)
        optimiser, waited = torch.optim.Adam(network.parameters(), rate, fused=True), 0
        while waited <= FIT_PATIENCE and step < FIT_STEPS:
            for rows in torch.randperm(len(fit)).split(BATCH)[:steps_per_pass]:
                if step % CHECK == 0:
                    with torch.no_grad():
                        loss = criterion(network(x_held), y_held).item()
                    if loss < best:
                        best, state = loss, {name: value.clone() for name, value in network.state_dict().items()}
                    mark, waited = (best, 0) if mark - best > GAIN * constant else (mark, waited + 1)
                    if waited > FIT_PATIENCE:
                        break
                optimiser.zero_grad()
                criterion(network(x_fit[rows]), y_fit[rows]).backward()
                optimiser.step()
                step += 1
    return best


REFIT = {"linear": refit_linear, "mlp": refit_mlp}


class Sequential:
    """TERC as it is written down: one fit per node and repeat."""

    def __init__(self, features: Tensor, target: Tensor, predictor: str):
        self.data = prepared(features, target, REPEATS, 0, in_units=False)
        self.refit, self.units = REFIT[predictor], features.shape[1]
        self.by_costs = predictor == "linear"
        self.constants = [self._constant(fit, held) for fit, held in zip(self.data.fit, self.data.held, strict=True)]
        self.full = self.losses(list(range(self.units)))
        fitted = PREDICTORS[predictor]
        nothing = fitted.resolution * sum(self.constants) / REPEATS
        quantile = student(REPEATS - 1, CONFIDENCE)
        chance = torch.as_tensor(fitted(self.data, 0).chance((1 - CONFIDENCE) / self.units)).max()
        self.test = RiseTest(quantile, self.data.widening, nothing, chance)

    def _constant(self, fit: Tensor, held: Tensor) -> float:
        mean, y = self.data.y[fit].mean(0), self.data.y[held]
        loss = (y - mean).square() if self.data.classes is None else -y * mean.log()
        return float(loss.sum(1).mean())

    def losses(self, units: list[int]) -> Tensor:
        x, one_hot = self.data.x[:, units], self.data.classes is not None
        splits = zip(self.data.fit, self.data.held, self.constants, strict=True)
        losses = [self.refit(x, self.data.y, *split[:2], one_hot, split[2], r) for r, split in enumerate(splits)]
        return torch.tensor(losses, dtype=torch.float64)

    def rise(self, left: list[int], unit: int, now: Tensor) -> Tensor:
        return self.losses([other for other in left if other != unit]) - now

    def free(self, left: list[int], unit: int, now: Tensor) -> bool:
        return bool(self.test.free(self.rise(left, unit, now), now))

    def cheapest(self, visits: list[int], now: Tensor, free: bool) -> int | None:
        """The cheapest of the units left, ``visits``, or of those that are ``free``; with linear predictors the
        first of a tie."""
        rises = {unit: self.rise(visits, unit, now) for unit in visits}
        means = {unit: float(rise.mean()) for unit, rise in rises.items() if not free or self.test.free(rise, now)}
        tie = self.test.nothing if self.by_costs else 0.0
        return next((unit for unit in means if means[unit] <= min(means.values()) + tie), None)

    def drop_free(self, left: list[int], now: Tensor) -> tuple[list[int], Tensor]:
        """``left``, in the order of visits, without what costs nothing, and its losses."""
        while self.by_costs and (unit := self.cheapest(left, now, free=True)) is not None:
            left = [other for other in left if other != unit]
            now = self.losses(left)
        before = len(left) if self.by_costs else None
        while before != len(left):
            before = len(left)
            for unit in left:
                if self.free(left, unit, now):
                    left = [other for other in left if other != unit]
                    now = self.losses(left)
        return left, now

    def select(self, visits: list[int]) -> list[int]:
        information_in_all = max(0.0, sum(self.constants) / REPEATS - float(self.full.mean()))
        left, now = self.drop_free(visits, self.full)
        ceiling = min(float(self.full.mean()), float(now.mean())) + REGULARISATION * information_in_all
        while True:
            unit = self.cheapest(left, now, free=False)
            rest = [other for other in left if other != unit]
            losses = self.losses(rest)
            if float(losses.mean()) > ceiling:
                return sorted(left)
            left, now = self.drop_free(rest, losses)
