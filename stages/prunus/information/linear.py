"""The linear predictor: ridge regression from Gram matrices, and its held-out losses without each of the features."""

import copy
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from prunus.information.samples import RIDGE, Data

PANEL = 32  # removed columns that are applied to all of the linear predictor's matrices at once


@dataclass
class Block:
    """Features of one ``width`` that lie side by side: their ``columns``, and the diagonal blocks [R, n, width, width]
    of the inverse (``near``) and of P H P (``middle``)."""

    features: Tensor
    columns: slice
    width: int
    near: Tensor
    middle: Tensor


class Linear:
    """Least squares on the fitting split of each repeat, and its squared error on the held-out one.

    Every number comes from the Gram matrices of the two splits, so that leaving features out needs no pass over the
    samples. With P the inverse Gram matrix of the columns that are left, H the held-out Gram matrix, Q = P H P, B the
    coefficients and U = P (held-out covariance with the targets - H B), the fit without the columns g has

        coefficients  B - s B[g],  s = P[:, g] P[g, g]^-1,
        loss          higher by 2 <v, U[g]> + <v, Q[g, g] v>,  v = P[g, g]^-1 B[g] ,

    so the diagonal blocks of P and Q with B and U carry the cost of every feature at once. These follow each removal;
    the rest of P and Q, of which a removal reads the columns g alone, follows PANEL columns at a time in one product.
    A discrete target counts as its one-hot code.
    """

    resolution = RIDGE  # of the constant's loss

    def __init__(self, data: Data, seed: int):
        x, y = data.x, data.y * data.scale
        self.columns, self.widening, self._samples = data.columns, data.widening, len(x)
        both = torch.cat([x, y], 1)
        width, total, total_sum = x.shape[1], x.T @ both, both.sum(0)
        fits, helds, constants, spreads = [], [], [], []
        for rows in data.held:
            part, n = both[rows], len(rows)
            held, held_sum = part[:, :width].T @ part, part.sum(0)
            mean = (total_sum - held_sum) / (len(x) - n)
            fits.append((total - held) / (len(x) - n) - mean[:width, None] * mean)
            held_mean = held_sum / n
            cross = held_mean[:width, None] * mean + mean[:width, None] * held_mean
            helds.append(held / n - cross + mean[:width, None] * mean)
            squares = (part[:, width:] - mean[width:]).square()
            constants.append(squares.sum(1).mean())
            spreads.append(squares.mean(0))
        fit, held = torch.stack(fits), torch.stack(helds)
        self._fit, self._fit_xy = fit[..., :width], fit[..., width:]
        self._held, self._held_xy = held[..., :width], held[..., width:]
        self._fit.diagonal(dim1=1, dim2=2).add_(data.ridge)
        self.constant, self._spread = torch.stack(constants), torch.stack(spreads)
        self._invert()
        self._solve()

    def _invert(self) -> None:
        self._full_inverse = torch.cholesky_inverse(torch.linalg.cholesky(self._fit))
        self._full_middle = self._full_inverse @ self._held @ self._full_inverse

    def _solve(self) -> None:
        """The fit with all features present."""
        weights = self._full_inverse @ self._fit_xy
        residual = self._held_xy - self._held @ weights
        self.full = self.now = self.constant - ((self._held_xy + residual) * weights).sum((1, 2))
        self._left = sorted(range(len(self.columns)), key=lambda feature: len(self.columns[feature]))
        self._inverse, self._middle = self._full_inverse, self._full_middle
        self._readings = weights, self._full_inverse @ residual
        self._lay_out(torch.cat([self.columns[feature] for feature in self._left]))

    def _lay_out(self, kept: Tensor) -> None:
        """Cut everything down to the columns ``kept``, those of the features that are left, one after the other."""
        size = self._inverse.shape[1]
        if len(kept) != size or not torch.equal(kept, torch.arange(size, device=kept.device)):
            self._inverse, self._middle = (m[:, kept[:, None], kept] for m in (self._inverse, self._middle))
            self._readings = tuple(values[:, kept] for values in self._readings)
        else:
            self._readings = tuple(values.clone() for values in self._readings)
        self._places, self._block_of, self._blocks = {}, {}, []
        start = 0
        for width, members in groupby(self._left, key=lambda feature: len(self.columns[feature])):
            features = list(members)
            columns = slice(start, start + width * len(features))
            self._block_of |= dict.fromkeys(features, len(self._blocks))
            self._places |= {f: slice(start + width * k, start + width * (k + 1)) for k, f in enumerate(features)}
            index = torch.arange(start, columns.stop, device=kept.device).view(-1, width)
            near, middle = (m[:, index[:, :, None], index[:, None]] for m in (self._inverse, self._middle))
            self._blocks.append(Block(torch.tensor(features, device=kept.device), columns, width, near, middle))
            start = columns.stop
        widest = max((block.width for block in self._blocks), default=1)
        self._factors = [self._inverse.new_empty(len(self.now), start, max(PANEL, widest)) for _ in range(4)]
        self._taken = 0

    def part(self, features: list[int], outputs: slice) -> "Linear":
        """The fit of some outputs by some features (ascending), from the same Gram matrices, nothing removed yet."""
        other = copy.copy(self)
        columns = torch.cat([self.columns[feature] for feature in features])
        widths = [len(self.columns[feature]) for feature in features]
        other.columns = list(torch.arange(len(columns), device=columns.device).split(widths))
        other.constant = self._spread[:, outputs].sum(1)
        other._fit_xy, other._held_xy = (xy[:, columns, outputs] for xy in (self._fit_xy, self._held_xy))
        if len(features) < len(self.columns):
            rows = columns[:, None]
            other._fit, other._held = self._fit[:, rows, columns], self._held[:, rows, columns]
            other._invert()
        other._solve()
        return other

    def single(self) -> Tensor:
        """[F]: the information in each feature alone, mean over the repeats."""
        gains = []
        for g in self.columns:
            weights = torch.linalg.solve(self._fit[:, g[:, None], g], self._fit_xy[:, g])
            gain = (2 * self._held_xy[:, g] - self._held[:, g[:, None], g] @ weights) * weights
            gains.append(gain.sum((1, 2)).mean())
        return torch.stack(gains)

    def chance(self, level: float) -> Tensor:
        """[F]: the cost, as a share of the present loss, that each feature would exceed with probability ``level`` if
        it were irrelevant.

        With T targets and k columns, N times the cost over the loss of one target is chi-squared with T k degrees of
        freedom, less T k, which is no more than what fitting to noise costs on average.
        """
        from scipy.special import chdtri  # every stage imports the methods, and scipy takes a tenth of its start

        targets = self._fit_xy.shape[2]
        freedom = [targets * len(columns) for columns in self.columns]
        cost = (chdtri(freedom, level) - freedom) / (targets * self._samples)
        return torch.from_numpy(cost).to(self.now.device)

    def costs(self) -> Tensor:
        """[R, F]: how much higher the held-out losses are without each feature; undefined for removed ones."""
        result = self.now.new_zeros(len(self.now), len(self.columns))
        for block in self._blocks:
            weights, slopes = (values[:, block.columns].unflatten(1, (-1, block.width)) for values in self._readings)
            if block.width == 1:
                weights, slopes, near = weights[:, :, 0], slopes[:, :, 0], block.near[:, :, 0, 0]
                first, second = (weights * slopes).sum(2) / near, weights.square().sum(2) / near.square()
                values = 2 * first + second * block.middle[:, :, 0, 0]
            else:
                v = torch.linalg.solve(block.near, weights)
                values = ((2 * slopes + block.middle @ v) * v).sum((2, 3))
            result.index_copy_(1, block.features, values)
        return result

    def remove(self, feature: int) -> None:
        """Leave the feature out of every fit from here on."""
        if self._taken + len(self.columns[feature]) > self._factors[0].shape[2]:
            self._settle()
        at, (weights, slopes) = self._places[feature], self._readings
        shifts, nears, rights, lefts = (factor[..., : self._taken] for factor in self._factors)
        near = torch.baddbmm(self._inverse[..., at], shifts, nears[:, at].mT, alpha=-1)
        middle = torch.baddbmm(self._middle[..., at], shifts, rights[:, at].mT, alpha=-1)
        middle.baddbmm_(lefts, shifts[:, at].mT, alpha=-1)
        within = torch.linalg.inv(near[:, at])
        shift, v = near @ within, within @ weights[:, at]
        self.now = self.now + ((2 * slopes[:, at] + middle[:, at] @ v) * v).sum((1, 2))
        slopes.baddbmm_(middle, v)
        for values in self._readings:
            values.baddbmm_(shift, values[:, at].clone(), alpha=-1)
            values[:, at] = 0
        left = torch.baddbmm(middle, shift, middle[:, at], alpha=-1)
        for block in self._blocks:
            s, p, q, r = (f[:, block.columns].unflatten(1, (-1, block.width)) for f in (shift, near, middle, left))
            for values, pairs in (block.near, ((s, p),)), (block.middle, ((s, q), (r, s))):
                for a, b in pairs:
                    values.sub_(a @ b.mT if block.width > 1 or a.shape[3] > 1 else a * b)
        block = self._blocks[self._block_of[feature]]
        identity = torch.eye(block.width, dtype=s.dtype, device=s.device)
        block.near[:, (at.start - block.columns.start) // block.width] = identity
        for factor, values in zip(self._factors, (shift, near, middle, left), strict=True):
            factor[..., self._taken : self._taken + values.shape[2]] = values
        self._taken += shift.shape[2]
        self._left.remove(feature)

    def _settle(self) -> None:
        """Apply the removals since the last call to what is left of the matrices."""
        places = [self._places[feature] for feature in self._left]
        columns = torch.arange(self._inverse.shape[1], device=self._inverse.device)
        kept = torch.cat([columns[place] for place in places]) if places else columns[:0]
        shifts, nears, rights, lefts = (factor[:, kept, : self._taken] for factor in self._factors)
        inverse, middle = (m[:, kept[:, None], kept] for m in (self._inverse, self._middle))
        self._inverse = inverse.baddbmm_(shifts, nears.mT, alpha=-1)
        self._middle = middle.baddbmm_(shifts, rights.mT, alpha=-1).baddbmm_(lefts, shifts.mT, alpha=-1)
        self._readings = tuple(values[:, kept] for values in self._readings)
        self._lay_out(columns[: len(kept)])
