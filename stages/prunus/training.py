"""The training loop: one function, data on the device, masks held, a stop rule asked after every epoch."""

import math
import sys
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.sgd import sgd as sgd_step
from tqdm import tqdm

from prunus.datasets import Dataset
from prunus.evaluation import accuracy
from prunus.masks import Masks, apply, mask_gradients
from prunus.params import Sgd
from prunus.runtime import Clock, StageError
from prunus.stopping import Look, StopRule

CROP_PADDING = 4


@dataclass(frozen=True)
class Outcome:
    """``history``: one dict per epoch (epoch, train_loss, validation_accuracy, distance); ``reason`` why it ended;
    ``kept``: the state_dict after ``keep_after`` steps, when asked for."""

    history: list[dict]
    reason: str
    kept: dict[str, Tensor] | None


class Sparsifier(Protocol):
    """What the loop calls of a method that prunes while it trains.

    ``gradients`` may change ``.grad`` before the optimiser's step of ``epoch`` (from 1), ``project`` the parameters
    after it.
    """

    def gradients(self, epoch: int) -> None: ...

    def project(self, epoch: int) -> None: ...


def batches_per_epoch(images: int, batch_size: int) -> int:
    """Optimiser steps of an epoch: a last batch of a single image is left out, batch norm cannot train on it."""
    full, rest = divmod(images, batch_size)
    return full + (rest > 1 or (rest == 1 and images == 1))


def flip_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random horizontal flip, and random crop after reflecting 4 pixels at the border, of uint8 images [N, C, H, W].

    The random numbers are drawn on the CPU, so that they do not depend on the device.
    """
    n, _, height, width = images.shape
    padding = min(CROP_PADDING, height - 1, width - 1)
    draws = torch.randint(0, 2 * padding + 1, (2, n), generator=generator)
    flipped = torch.rand(n, generator=generator) < 0.5
    columns = torch.arange(width).expand(n, -1)
    columns = torch.where(flipped[:, None], columns.flip(1), columns) + draws[0][:, None]
    rows = torch.arange(height) + draws[1][:, None]
    device = images.device
    padded = F.pad(images.float(), (padding,) * 4, mode="reflect").to(images.dtype)
    index = torch.arange(n, device=device)[:, None, None]
    picked = padded.permute(0, 2, 3, 1)[index, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]
    return picked.permute(0, 3, 1, 2)


class _Progress:
    """A bar on a terminal; elsewhere one line per epoch."""

    def __init__(self, label: str, stop: StopRule, steps: int):
        self._label, self._stop = label, stop
        self._bar = tqdm(total=stop.max_epochs * steps, desc=label, unit="step", disable=not sys.stderr.isatty())

    def step(self) -> None:
        self._bar.update()

    def epoch(self, row: dict) -> None:
        parts = [f"epoch {row['epoch']}/{self._stop.max_epochs}", f"loss {row['train_loss']:.4f}"]
        parts.append(f"validation accuracy {row['validation_accuracy']:.2%}")
        if row["distance"] is not None:
            parts.append(f"distance {row['distance']:.4f} (epsilon {self._stop.epsilon})")
        if self._bar.disable:
            print(f"{self._label}: " + ", ".join(parts), flush=True)
        else:
            self._bar.set_postfix_str(", ".join(parts))

    def close(self) -> None:
        self._bar.close()


class _Sgd:
    """torch's functional SGD. Making a ``torch.optim.SGD`` imports torch's compiler, which takes longer than retraining
    a small network does."""

    def __init__(self, network: nn.Module, settings: Sgd):
        self._parameters = list(network.parameters())
        self._momenta = [None] * len(self._parameters)
        self._settings, self._rate = settings, settings.learning_rate

    def set_epoch(self, epoch: int, epochs: int) -> None:
        """The learning rate of ``epoch`` (from 1) of at most ``epochs``."""
        if self._settings.schedule == "cosine":
            self._rate = self._settings.learning_rate * (0.5 + 0.5 * math.cos(math.pi * (epoch - 1) / epochs))

    @torch.no_grad()
    def step(self) -> None:
        sgd_step(
            self._parameters,
            [parameter.grad for parameter in self._parameters],
            self._momenta,
            foreach=True,
            weight_decay=self._settings.weight_decay,
            momentum=self._settings.momentum,
            lr=self._rate,
            dampening=0.0,
            nesterov=self._settings.nesterov,
            maximize=False,
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
    keep_after: int | None = None,
    sparsifier: Sparsifier | None = None,
) -> Outcome:
    """Train ``network`` in place until ``stop`` says so, with the pruned weights at exactly zero throughout.

    ``seed`` fixes the order of the images and the augmentation. Seconds are booked on ``clock`` as train, flow (the
    stop rule) and evaluation (validation accuracy). The gradient norm is clipped after masking, so that pruned
    weights do not shorten the step (SAP's code clips first); ``sparsifier`` sees the gradients before both and the
    parameters after the step. Raises ``StageError`` when the loss is not finite.
    """
    images, labels = dataset.splits["train"].images, dataset.splits["train"].labels
    steps = batches_per_epoch(len(labels), sgd.batch_size)
    optimiser = _Sgd(network, sgd)
    generator = torch.Generator().manual_seed(seed)
    progress = _Progress(label, stop, steps)
    history, look, kept, taken = [], Look(None), None, 0
    apply(network, masks)
    network.train()
    while look.reason is None:
        epoch = len(history) + 1
        optimiser.set_epoch(epoch, stop.max_epochs)
        with clock.time("train"):
            total = torch.zeros((), device=images.device)
            order = torch.randperm(len(labels), generator=generator).to(images.device)
            for chosen in order.split(sgd.batch_size)[:steps]:
                if taken == keep_after:
                    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
                batch = images[chosen]
                if augment == "flip_crop":
                    batch = flip_crop(batch, generator)
                network.zero_grad()
                loss = F.cross_entropy(network(dataset.normalise(batch)), labels[chosen])
                loss.backward()
                if sparsifier is not None:
                    sparsifier.gradients(epoch)
                mask_gradients(network, masks)
                if sgd.clip_norm:
                    nn.utils.clip_grad_norm_(network.parameters(), sgd.clip_norm)
                optimiser.step()
                if sparsifier is not None:
                    sparsifier.project(epoch)
                total += loss.detach()
                taken += 1
                progress.step()
            train_loss = total.item() / steps
        if not math.isfinite(train_loss):
            progress.close()
            raise StageError(
                f"{label}: the loss became {train_loss} in epoch {epoch}; lower training.sgd.learning_rate"
            )
        with clock.time("evaluation"):
            validation_accuracy = accuracy(network, dataset, "validation")
        with clock.time("flow"):
            look = stop.after_epoch(epoch, network)
        history.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                "validation_accuracy": validation_accuracy,
                "distance": look.distance,
            }
        )
        progress.epoch(history[-1])
    progress.close()
    if taken == keep_after:
        kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return Outcome(history, look.reason, kept)
