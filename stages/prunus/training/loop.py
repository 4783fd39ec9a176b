"""The training loop: one function, data on the device, masks held, a stop rule asked after every epoch."""

import copy
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.sgd import sgd as sgd_step
from tqdm import tqdm

from prunus.data import batches
from prunus.data.dataset import Dataset
from prunus.masks import Masks, apply, prunable
from prunus.networks.inspect import norm_of_one_value, why_not_finite
from prunus.run.device import Clock
from prunus.run.errors import StageError, labelled
from prunus.study.schema import Sgd
from prunus.training.accuracy import answered, logits, share_correct
from prunus.training.resuming import Random, Resume
from prunus.training.stopping import Look, StopRule


@dataclass(frozen=True)
class Outcome:
    """``history``: one dict per epoch trained (epoch from 1, train_loss, validation_accuracy, distance); ``reason`` why
    it ended; ``kept``: the state_dict after ``keep_after`` steps, when asked for; ``unanswered``: how many validation
    images the trained network answers with numbers that are not finite."""

    history: list[dict]
    reason: str
    kept: dict[str, Tensor] | None
    unanswered: int = 0


class Sparsifier(Protocol):
    """The calls that the loop makes to a method that prunes while it trains.

    ``gradients`` may change ``.grad`` before an optimiser step. ``project`` may change the parameters after it;
    ``epoch`` counts from 1, ``rate`` is the learning rate. ``end_epoch`` may change them after the last step of an
    epoch; ``last`` is True for the last epoch of the schedule.
    ``state_dict`` is what it remembers from one epoch to the next.
    """

    def gradients(self) -> None: ...

    def project(self, epoch: int, rate: float) -> None: ...

    def end_epoch(self, last: bool) -> None: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class _Progress:
    """A bar on a terminal; elsewhere one line per epoch."""

    def __init__(self, label: str, stop: StopRule, steps: int, start: int, taken: int):
        self._label, self._stop, self._epochs = label, stop, stop.max_epochs - start // steps
        if done := taken // steps - start // steps:
            print(f"{label}: goes on after epoch {done} of {self._epochs}", flush=True)
        self._bar = tqdm(
            total=stop.max_epochs * steps - start,
            initial=taken - start,
            desc=label,
            unit="step",
            disable=not sys.stderr.isatty(),
        )

    def step(self) -> None:
        self._bar.update()

    def epoch(self, row: dict) -> None:
        parts = [f"epoch {row['epoch']}/{self._epochs}", f"loss {row['train_loss']:.4f}"]
        parts.append(f"validation accuracy {row['validation_accuracy']:.2%}")
        if row["distance"] is not None:
            parts.append(f"distance {row['distance']:.4f} (epsilon {self._stop.epsilon})")
        if self._bar.disable:
            print(f"{self._label}: " + ", ".join(parts), flush=True)
        else:
            self._bar.set_postfix_str(", ".join(parts))

    def close(self) -> None:
        self._bar.close()


class _Gradients:
    """Zeroes the gradients of pruned weights before every step: a weight that is zero and never has a gradient stays
    exactly zero under momentum and weight decay.

    The masks are floats in the weights' memory order: the product takes a fifth of the time of one with bools.
    """

    def __init__(self, network: nn.Module, masks: Masks):
        pruned = [(weight, masks[name]) for name, weight in prunable(network).items() if not masks[name].all()]
        self._weights = [weight for weight, _ in pruned]
        self._masks = [torch.empty_like(weight, requires_grad=False).copy_(mask) for weight, mask in pruned]

    def mask(self) -> None:
        if self._weights:
            torch._foreach_mul_([weight.grad for weight in self._weights], self._masks)


class _Sgd:
    """torch's functional SGD, fused. Making a ``torch.optim.SGD`` imports torch's compiler, which takes longer than
    retraining a small network."""

    def __init__(self, network: nn.Module, settings: Sgd):
        self._parameters = list(network.parameters())
        self._momenta = [None] * len(self._parameters)
        self._settings, self.rate = settings, settings.learning_rate

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """The learning rate of ``epoch`` (from 1) of at most ``epochs``."""
        if self._settings.schedule == "cosine":
            self.rate = self._settings.learning_rate * (0.5 + 0.5 * math.cos(math.pi * (epoch - 1) / epochs))

    def zero_grad(self) -> None:
        """Forget the gradients: what ``nn.Module.zero_grad`` does, without its walk through all modules."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        sgd_step(
            self._parameters,
            [parameter.grad for parameter in self._parameters],
            self._momenta,
            fused=True,
            weight_decay=self._settings.weight_decay,
            momentum=self._settings.momentum,
            lr=self.rate,
            dampening=0.0,
            nesterov=self._settings.nesterov,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Tensor]:
        return {str(index): momentum for index, momentum in enumerate(self._momenta) if momentum is not None}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The fused step walks through memory, so momenta need the memory order of their parameters."""
        for index, momentum in state.items():
            parameter = self._parameters[int(index)]
            self._momenta[int(index)] = torch.empty_like(parameter, requires_grad=False).copy_(momentum)


def _refuse_one_value(network: nn.Module, dataset: Dataset, batch_size: int, label: str) -> None:
    """Raise ``StageError`` where batches of one image give batch norm a single value to normalise."""
    if batch_size > 1:
        return
    if norm := norm_of_one_value(network, dataset.normalise(dataset.splits["train"].images[:1])):
        raise StageError(
            f"{label}: training.sgd.batch_size: 1 leaves {norm}, which normalises over the batch, one value per "
            "channel; allowed for this network on these images: 2 or more"
        )


def _floats(network: nn.Module) -> dict[str, Tensor]:
    """Weights, biases and statistics of norms, by name."""
    return {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}


def _diverged(
    network: nn.Module, losses: list[Tensor], taken: int, epoch: int, label: str, moved_by: Sequence[str]
) -> str:
    """The message: what became infinite or NaN in ``epoch``, whose steps, the last of ``taken``, had ``losses``."""
    values = torch.stack(losses).tolist()
    first = next((position for position, loss in enumerate(values) if not math.isfinite(loss)), None)
    if first is not None:
        before = f", from {values[first - 1]:.3g} in the step before" if first else ""
        quantity = "the loss"
        measured = f"{values[first]} in step {taken - len(values) + first + 1}{before}"
    else:
        tensors = [name for name, tensor in _floats(network).items() if not tensor.isfinite().all()]
        weights = [name for name in tensors if name in dict(network.named_parameters())]
        quantity = "weights" if weights else "the statistics of norms" if tensors else "the sum of the losses"
        measured = ", ".join([*(weights or tensors)[:1], f"at a loss of {values[-1]:.3g}"])
    cures = ", ".join(f"lower {key}" for key in ("training.sgd.learning_rate", *moved_by))
    return (
        f"{label}: {quantity} became infinite or not a number in epoch {epoch}; {cures} or set training.sgd.clip_norm "
        f"({measured})"
    )


def train(
    network: nn.Module,
    masks: Masks,
    dataset: Dataset,
    sgd: Sgd,
    augment: str,
    stop: StopRule,
    *,
    seed: int,
    clock: Clock,
    label: str,
    precision: torch.dtype = torch.float32,
    start: int = 0,
    keep_after: int | None = None,
    sparsifier: Sparsifier | None = None,
    moved_by: Sequence[str] = (),
    resume: Resume | None = None,
) -> Outcome:
    """Train ``network`` in place until ``stop`` ends it, with the pruned weights at exactly zero throughout.

    ``seed`` fixes the order of the images and the augmentation. ``precision`` is that of the products in a step's
    forward and backward pass (autocast); weights, gradients and everything outside the step are float32. Seconds are
    booked on ``clock`` as train, flow (the stop rule) and evaluation (validation accuracy). The gradient norm is
    clipped after masking, so that pruned weights do not shorten the step (SAP's code clips first); ``sparsifier`` sees
    the gradients before both and the parameters after the step; ``moved_by``: the keys of params.yaml that set how far
    it moves them. With ``resume`` training continues from the checkpoint of a stopped training, and writes checkpoints.
    Raises ``StageError`` when the loss, a weight or a statistic of batch norm is not finite, and where batch norm would
    have a single value to normalise.

    ``start``: the step it begins at, of a training whose earlier steps made the ``network``. Learning rate, images'
    order, ``stop`` and ``sparsifier`` count epochs from step 0, as if those steps had been taken here; the history
    counts the epochs trained, the rest of the first one as one epoch, and the optimiser starts without momentum. Raises
    ``StageError`` where no step is left.
    """
    split = dataset.splits["train"]
    device = split.labels.device
    steps = batches.batches_per_epoch(len(split.labels), sgd.batch_size)
    if start >= stop.max_epochs * steps:
        raise StageError(
            f"{label}: `rewind: warmup` starts after training.warmup_steps: {start}, and its {stop.max_epochs} epochs "
            f"have {stop.max_epochs * steps} steps: nothing is left to train; lower training.warmup_steps or retrain "
            "for more epochs"
        )
    _refuse_one_value(network, dataset, sgd.batch_size, label)
    optimiser = _Sgd(network, sgd)
    gradients = _Gradients(network, masks)
    generator = torch.Generator().manual_seed(seed)
    apply(network, masks)
    network.train()
    parts = {"network": network, "optimiser": optimiser, "random": Random(generator, device)}
    if sparsifier is not None:
        parts["sparsifier"] = sparsifier
    for _ in range(start // steps):
        next(
            batches.epoch(split, sgd.batch_size, augment, generator)
        )  # an epoch makes all its draws before its first batch
    history, taken, kept = (resume and resume.restore(parts)) or ([], start, None)
    look = Look(None)
    progress = _Progress(label, stop, steps, start, taken)
    while look.reason is None:
        epoch, skipped = taken // steps + 1, taken % steps
        optimiser.set_epoch(epoch, stop.max_epochs)
        with clock.time("train"):
            total = torch.zeros((), device=device)
            losses = []
            epoch_batches = batches.epoch(split, sgd.batch_size, augment, generator)
            for images, labels in islice(epoch_batches, skipped, None):
                if taken == keep_after:
                    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
                optimiser.zero_grad()
                with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                    answers = network(dataset.normalise(images))
                loss = F.cross_entropy(answers.float(), labels)
                if taken == start and not loss.isfinite():
                    progress.close()
                    why = why_not_finite(network, dataset.normalise(images))
                    raise StageError(
                        f"{label}: the loss of the first step is {loss.item()}, before any weight has moved: {why}",
                        "not_finite",
                    )
                loss.backward()
                if sparsifier is not None:
                    sparsifier.gradients()
                gradients.mask()
                if sgd.clip_norm:
                    nn.utils.clip_grad_norm_(network.parameters(), sgd.clip_norm)
                optimiser.step()
                if sparsifier is not None:
                    sparsifier.project(epoch, optimiser.rate)
                losses.append(loss.detach())
                total += losses[-1]
                taken += 1
                progress.step()
            if sparsifier is not None:
                sparsifier.end_epoch(epoch == stop.max_epochs)
            train_loss = total.item() / (steps - skipped)
        if not math.isfinite(train_loss) or any(not tensor.isfinite().all() for tensor in _floats(network).values()):
            progress.close()
            raise StageError(_diverged(network, losses, taken, len(history) + 1, label, moved_by), "diverged")
        with clock.time("evaluation"):
            answers = logits(network, dataset, "validation")
            validation_accuracy = share_correct(answers, dataset.splits["validation"].labels)
            unanswered = len(answers) - int(answered(answers).sum())
        with clock.time("flow"):
            accuracies = [row["validation_accuracy"] for row in history] + [validation_accuracy]
            with labelled(f"{label}, epoch {len(history) + 1}"):
                look = stop.after_epoch(epoch, network, accuracies)
        history.append(
            {
                "epoch": len(history) + 1,
                "train_loss": train_loss,
                "validation_accuracy": validation_accuracy,
                "distance": look.distance,
            }
        )
        progress.epoch(history[-1])
        if resume is not None and look.reason is None:
            resume.save(parts, history, taken, kept)
    progress.close()
    if taken == keep_after:
        kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return Outcome(history, look.reason, kept, unanswered)


def refuse_unanswered(outcome: Outcome, network: nn.Module, dataset: Dataset, label: str) -> None:
    """Raise ``StageError`` where the trained ``network`` has answers that are not finite: its accuracy would mean
    nothing."""
    if not outcome.unanswered:
        return
    images = dataset.normalise(dataset.splits["validation"].images)
    why = why_not_finite(copy.deepcopy(network).eval(), images)
    raise StageError(
        f"{label}: once trained, the network answers {outcome.unanswered} of {len(images)} validation images with "
        f"numbers that are not finite: {why}",
        "not_finite",
    )
