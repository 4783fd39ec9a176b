"""OTO, Only Train Once: channels are driven to exactly zero while the network trains.

`form: hspg` is Chen et al., NeurIPS 2021 (arXiv 2107.07467): half-space projected gradient on the loss plus `penalty`
times the norms of all channels. After `warmup_epochs` a channel whose step leaves its half-space, <new, old> <
`epsilon` ||old||^2, becomes zero and stays so, until `fraction` of the living channels is gone: a cap, which short
training or a small penalty may never reach. `form: dhspg` is OTOv2 (Chen et al., ICLR 2023, arXiv 2303.06862): after
the warm-up exactly `fraction` of the channels is chosen, those that are small and that the step shrinks, and only
they are penalised and projected; those that are not zero after the last step are zeroed then, so the count is met.
A norm moves by the learning rate times ``penalty`` times the steps (under `hspg`'s momentum 1 / (1 - momentum) times
that), which has to be of the size of the norms. The published 1e-3 is for 200,000 steps.

A channel's parameters are its zero-invariant group: the rows that write it, their biases, norm scale and shift in all
layers that write it. All zero, it can be deleted and the outputs stay the same; nothing is trained afterwards.

From the authors' code (tianyic/only_train_once): hspg.py's momentum takes up the penalty with the gradient; in dhspg.py
weight decay and momentum make the direction of the step first, of which scores and adaptive penalty (factors 2 and 10)
are made, for one mini-batch, and the penalty is a step of its own. Departures: the cap goes by what is still allowed,
smallest norms first, where their code takes as many random channels as exceed it; dhspg.py chooses `fraction` + 0.05,
and penalises until `fraction` is at zero; a layer's last channel stays, a count is met with the next in rank; momentum,
weight decay and learning rate are those of `training.sgd` for all methods, where the paper has no momentum. The
direction is what a step moved, over the learning rate: below rates of about 1e-5 single precision blurs it.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from prunus import channels
from prunus.channels.groups import Group
from prunus.masks import Masks
from prunus.pruning.candidates import Candidates
from prunus.pruning.recipe import Recipe, Rewind, nothing
from prunus.pruning.settings import ChannelSettings, FixedEpochsSettings
from prunus.run.errors import StageError
from prunus.sparsity import fraction_count
from prunus.study.schema import Fraction, Positive, PositiveFraction

AMPLIFY, LARGEST = 2.0, 10.0  # of the adaptive penalty, see _adapted
TINY = 1e-6


class Settings(ChannelSettings, FixedEpochsSettings):
    """Channels are driven to zero while the network trains."""

    form: Literal["hspg", "dhspg"] = Field(
        description="dhspg (OTOv2: exactly `fraction` goes) | hspg (OTO: `fraction` is a cap)"
    )
    fraction: PositiveFraction = Field(description="of the channels left, of the whole network")
    penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        description="on channel norms; the published 1e-3 is for 200,000 steps, hspg wants about 0.01 here"
    )
    epsilon: Fraction = Field(description="half-space, 0 <= epsilon < 1: larger zeroes more readily")
    warmup_epochs: Positive = Field(description="before channels may become zero")

    @model_validator(mode="after")
    def _warmup_before_the_end(self):
        if not self.warmup_epochs < self.epochs:
            raise ValueError(
                f"must have warmup_epochs < epochs, got warmup_epochs: {self.warmup_epochs}, epochs: {self.epochs}"
            )
        return self


class Channels:
    """All channels of some groups as one vector, in the order of the groups, and the parameters that write them."""

    def __init__(self, network: nn.Module, groups: list[Group]):
        self.groups = groups
        self.sizes = [group.size for group in groups]
        total, device = sum(self.sizes), next(network.parameters()).device
        # Entry `total` of these stands for no channel: rows that are in no group, and the padding of the tables.
        owners, start = {}, 0
        for group in groups:
            for part in group.writes:
                rows = len(network.get_parameter(part.parameter))
                owner = owners.setdefault(part.parameter, torch.full((rows,), total, device=device))
                numbers = torch.arange(start, start + group.size, device=device)
                owner[part.index] = numbers[:, None].expand(part.index.shape)
            start += group.size
        self.parameters = [network.get_parameter(name) for name in owners]
        self._owner = torch.cat(list(owners.values()))
        self._rows = [len(owner) for owner in owners.values()]
        self._table = _table(self._owner, total)
        self.numel = self.sum([torch.ones_like(parameter) for parameter in self.parameters])
        group_of = torch.arange(len(groups), device=device).repeat_interleave(torch.tensor(self.sizes, device=device))
        self._group_of, self._members = group_of, _table(group_of, len(groups))

    def sum(self, tensors: list[Tensor]) -> Tensor:
        """The sums of all entries of each channel; ``tensors`` shaped as ``parameters``."""
        rows = torch.cat([tensor.flatten(1).sum(1) if tensor.dim() > 1 else tensor for tensor in tensors])
        return F.pad(rows, (0, 1))[self._table].sum(1)

    def dot(self, first: list[Tensor], second: list[Tensor]) -> Tensor:
        return self.sum(torch._foreach_mul(first, second))

    def spread(self, values: Tensor, elsewhere: float) -> list[Tensor]:
        """A value per channel as one per row of each parameter, to multiply with; ``elsewhere`` in other rows."""
        rows = F.pad(values, (0, 1), value=elsewhere)[self._owner].split(self._rows)
        return [
            part.view(-1, *[1] * (parameter.dim() - 1)) for part, parameter in zip(rows, self.parameters, strict=True)
        ]

    def lowest(self, values: Tensor, eligible: Tensor, alive: Tensor, count: Tensor | int) -> Tensor:
        """The ``count`` eligible channels of lowest value, bool, fewer where that would empty a group.

        The highest of a group's living channels is not eligible; among equal values the first are lower.
        """
        rank = values.argsort(stable=True).argsort()
        living = F.pad(torch.where(alive, rank, -1), (0, 1), value=-1)
        last = living[self._members].amax(1)[self._group_of] == rank
        allowed = eligible & ~last
        order = torch.where(allowed, rank, len(rank)).argsort(stable=True).argsort()
        return allowed & (order < count)


def _table(owner: Tensor, owners: int) -> Tensor:
    """Per owner the positions it has in ``owner``, padded with the position after the last, int64 [owners, most].

    Sums over it are deterministic, unlike atomic additions on a GPU.
    """
    order = owner.argsort(stable=True)
    counts = owner.bincount(minlength=owners)[:owners]
    rank = torch.arange(int(counts.max()), device=owner.device)
    first = counts.cumsum(0) - counts
    places = (first[:, None] + rank).clamp(max=len(owner) - 1)
    return torch.where(rank < counts[:, None], order[places], len(owner))


def _adapted(penalty: float, inner: Tensor, norm: Tensor, length: Tensor) -> Tensor:
    """OTOv2's penalty per channel, from <x, d>, ||x|| and ||d||; -d is the direction of the optimiser's step.

    Where that step would make a channel grow (inner < 0), a penalty above -<x, d> / ||x|| makes its norm shrink, and
    below -||d||^2 ||x|| / <x, d> both steps together still go along -d. Taken is twice the lower bound,
    within 1 and 10 times ``penalty``, or the middle of both bounds where that exceeds the upper.
    """
    lower = -inner / norm.clamp_min(TINY)
    upper = length.square() * norm / (-inner).clamp_min(TINY**2)
    raised = (AMPLIFY * lower).clamp(penalty, LARGEST * penalty)
    raised = torch.where(raised >= upper, (lower + upper) / 2, raised)
    return torch.where(inner < 0, raised, penalty)


class HalfSpace:
    """Both forms as a ``recipe.Sparsifier``. Channels that are dead in ``masks`` are held at zero from the first step.

    ``zero`` bool: the channels at zero by now; ``chosen`` bool: those that are to become so (None: any may).
    """

    def __init__(self, network: nn.Module, groups: list[Group], masks: Masks, settings: Settings, iteration: int = 1):
        self.channels = Channels(network, groups)
        self._groups, self._masks, self._settings = groups, masks, settings
        alive = channels.alive(groups, masks)
        self.zero = ~torch.cat([alive[group.name] for group in groups])
        self._count = fraction_count(len(self.zero), int((~self.zero).sum()), settings.fraction, iteration)
        self._budget = int(self.zero.sum()) + self._count
        living = [int(alive[group.name].sum()) for group in groups]
        self._target = len(self.zero) - sum(living) + min(self._count, sum(max(0, left - 1) for left in living))
        self.chosen = None
        self._before = None

    @torch.no_grad()
    def gradients(self) -> None:
        all_channels, parameters = self.channels, self.channels.parameters
        gradients = [parameter.grad for parameter in parameters]
        self._before = [parameter.clone() for parameter in parameters]
        if self._count and self._settings.form == "hspg":
            norm = all_channels.dot(parameters, parameters).sqrt()
            factors = torch.full_like(norm, self._settings.penalty) / norm.clamp_min(TINY)
            torch._foreach_addcmul_(gradients, parameters, all_channels.spread(factors, 0.0))
        torch._foreach_mul_(gradients, all_channels.spread((~self.zero).to(parameters[0].dtype), 1.0))

    @torch.no_grad()
    def project(self, epoch: int, rate: float) -> None:
        all_channels, parameters = self.channels, self.channels.parameters
        if self._count and epoch > self._settings.warmup_epochs:
            if self._settings.form == "dhspg":
                self._penalise(rate)
            old = all_channels.dot(self._before, self._before)
            leaves = all_channels.dot(parameters, self._before) < self._settings.epsilon * old
            alive = ~self.zero
            if self.chosen is None:
                self.zero |= all_channels.lowest(old, leaves & alive, alive, self._budget - self.zero.sum())
            else:
                self.zero |= leaves & self.chosen
        self._hold()

    def _penalise(self, rate: float) -> None:
        """OTOv2's step along the channels' norms, of learning rate ``rate``, after the optimiser's.

        Its direction is read from what it moved: with weight decay and momentum, as the authors' code has it.
        """
        all_channels, before = self.channels, self._before
        direction = torch._foreach_sub(before, all_channels.parameters)
        torch._foreach_div_(direction, rate)
        norm = all_channels.dot(before, before).sqrt()
        inner = all_channels.dot(before, direction)
        length = all_channels.dot(direction, direction).sqrt()
        if self.chosen is None:
            self.chosen = self._choose(inner, norm, length)
        penalty = self.chosen * _adapted(self._settings.penalty, inner, norm, length)
        factors = -rate * penalty / norm.clamp_min(TINY)
        torch._foreach_addcmul_(all_channels.parameters, before, all_channels.spread(factors, 0.0))

    def _choose(self, inner: Tensor, norm: Tensor, length: Tensor) -> Tensor:
        """OTOv2's redundant channels: half cos(-x, -direction), half 1 / (norm per parameter), each of unit length."""
        alive = ~self.zero
        cosine = inner / (norm * length).clamp_min(TINY**2)
        smallness = 1 / (norm / self.channels.numel + TINY)
        score = F.normalize(cosine * alive, dim=0) / 2 + F.normalize(smallness * alive, dim=0) / 2
        return self.channels.lowest(-score, alive, alive, self._count)

    def end_epoch(self, last: bool) -> None:
        if last:
            self._finish()
            self._hold()

    def _finish(self) -> None:
        if self.chosen is not None:
            self.zero |= self.chosen

    @torch.no_grad()
    def _hold(self) -> None:
        """Exact zeros: the optimiser's momentum moves parameters whose gradient is zero."""
        alive = (~self.zero).to(self.channels.parameters[0].dtype)
        torch._foreach_mul_(self.channels.parameters, self.channels.spread(alive, 1.0))

    def state_dict(self) -> dict[str, Tensor]:
        return {"zero": self.zero} if self.chosen is None else {"zero": self.zero, "chosen": self.chosen}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        device = self.zero.device
        self.zero = state["zero"].to(device)
        self.chosen = state["chosen"].to(device) if "chosen" in state else None

    def masks(self) -> Masks:
        self._finish()  # for training that a stop rule has ended early
        self._hold()
        if self.chosen is not None and (zeros := int(self.zero.sum())) != self._target:
            raise StageError(f"{zeros} of {len(self.zero)} channels are zero; {self._target} must be")
        parts = (~self.zero).split(self.channels.sizes)
        alive = {group.name: part for group, part in zip(self._groups, parts, strict=True)}
        return channels.expand(self._groups, alive, self._masks)


def recipe(settings: Settings) -> Recipe:
    def half_space(candidates: Candidates) -> HalfSpace:
        return HalfSpace(candidates.network, candidates.groups, candidates.masks, settings, candidates.iteration)

    return Recipe(
        prune=nothing,
        rewind=Rewind(settings.rewind),
        retrain=settings.stop_rule,
        while_training=half_space,
    )
