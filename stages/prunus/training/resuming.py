"""Checkpoints between epochs: a killed stage continues after its last finished epoch and ends with the same bytes.

One safetensors file outside DVC's outputs holds all that the coming epochs depend on. It is replaced after every epoch
but a training's last. What a stage computes before it trains is computed again.
"""

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prunus.run.errors import StageError
from prunus.run.files import sha256, write_atomically
from prunus.run.record import Recorder, processor, versions
from prunus.study import layout


class Part(Protocol):
    """One of the things that change while a network is trained, e.g. the network itself."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> object: ...


class Random:
    """The states of all random generators: ``order``, which draws the images' order, and torch's own (dropout)."""

    def __init__(self, order: torch.Generator, device: torch.device):
        self._order, self._gpu = order, device if device.type == "cuda" else None

    def state_dict(self) -> dict[str, Tensor]:
        states = {"order": self._order.get_state(), "cpu": torch.get_rng_state()}
        return states if self._gpu is None else states | {"gpu": torch.cuda.get_rng_state(self._gpu)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._order.set_state(state["order"])
        torch.set_rng_state(state["cpu"])
        if self._gpu is not None:
            torch.cuda.set_rng_state(state["gpu"], self._gpu)


def fingerprint(recorder: Recorder, inputs: Iterable[Path]) -> str:
    """SHA-256 of what decides a stage's numbers: which stage it is, its ``inputs``' bytes, the settings it obeys
    (by their repr), the project's code it runs, package versions, seeds, device and threads."""
    gpu = recorder.device.type == "cuda"
    facts = {
        "stage": str(recorder.path),
        "params": repr(recorder.obeys and recorder.obeys.params),
        "files": {str(path): sha256(path) for path in [*inputs, *(recorder.obeys.code if recorder.obeys else ())]},
        "versions": versions(),
        "seeds": recorder.seeds,
        "device": torch.cuda.get_device_name(recorder.device) if gpu else processor(),
        "instructions": None if gpu else torch.backends.cpu.get_cpu_capability(),
        "threads": recorder.threads,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _digest(facts: str, tensors: dict[str, Tensor]) -> str:
    """SHA-256 of a checkpoint's content; safetensors has no checksum, and a flipped bit would go unnoticed."""
    content = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.flatten().view(torch.uint8).numpy())
    return content.hexdigest()


class Resume:
    """What a stage has done so far: read when it starts to train, written while it trains.

    Made once per stage, just before it trains. ``inputs``: the files the stage reads, the data that dvc.yaml lists.
    ``finished``: the results given to ``finish``, for stages with several trainings. Books on ``recorder`` the seconds
    of the epochs that are not trained again, and as ``resumed_after_epochs`` where each later run continued.
    """

    def __init__(self, recorder: Recorder, inputs: Iterable[Path]):
        self.path = layout.unfinished(recorder.path) / layout.CHECKPOINT
        self.finished: list[dict] = []
        self._training, self._tensors = None, {}
        self._fingerprint = fingerprint(recorder, inputs)
        self._recorder, self._clock = recorder, recorder.clock
        self._before, self._start = dict(self._clock.seconds), time.perf_counter()
        resumed = recorder.measured["resumed_after_epochs"] = []
        if checkpoint := self._read():
            facts, self._tensors = checkpoint
            self.finished, self._training = facts["finished"], facts["training"]
            resumed += [*facts["resumed_after_epochs"], len(self._training["history"]) if self._training else 0]
            for activity, seconds in facts["seconds"].items():
                self._clock.seconds[activity] = self._clock.seconds.get(activity, 0.0) + seconds
            self._start -= facts["total"]
            recorder.earlier_seconds = facts["total"]

    def restore(self, parts: dict[str, Part]) -> tuple[list[dict], int, dict[str, Tensor] | None] | None:
        """Load the checkpoint's state into ``parts``; returns its history, steps taken and kept ``state_dict``.

        Returns None and changes nothing where there is no checkpoint, as for every training but the first.
        """
        training, self._training = self._training, None
        if training is None:
            return None
        states = {}
        for name, tensor in self._tensors.items():
            part, _, key = name.partition("/")
            states.setdefault(part, {})[key] = tensor
        for name, part in parts.items():
            part.load_state_dict(states.get(name, {}))
        self._tensors = {}
        return training["history"], training["taken"], states.get("kept")

    def save(self, parts: dict[str, Part], history: list[dict], taken: int, kept: dict[str, Tensor] | None) -> None:
        """Replace the checkpoint by one of a training after the last epoch of ``history``."""
        with self._clock.time("checkpoint"):
            states = {name: part.state_dict() for name, part in parts.items()} | {"kept": kept or {}}
            tensors = {f"{name}/{key}": value for name, state in states.items() for key, value in state.items()}
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            self._write({"history": history, "taken": taken}, tensors)

    def finish(self, result: dict) -> None:
        """Keep the result of a training (values that JSON holds), which then is not trained again."""
        self.finished.append(result)
        self._write(None, {})

    def _write(self, training: dict | None, tensors: dict[str, Tensor]) -> None:
        facts = {
            "fingerprint": self._fingerprint,
            "finished": self.finished,
            "training": training,
            "resumed_after_epochs": self._recorder.measured["resumed_after_epochs"],
            "seconds": {name: now - self._before.get(name, 0.0) for name, now in self._clock.seconds.items()},
            "total": time.perf_counter() - self._start,
        }
        text = json.dumps(facts)
        try:
            with write_atomically(self.path) as partial:
                save_file(tensors, partial, {"facts": text, "sha256": _digest(text, tensors)})
        except (OSError, SafetensorError, StageError) as error:
            why = error.__cause__ or error
            print(f"{self.path}: cannot be written ({why}); training goes on without this checkpoint", flush=True)

    def _read(self) -> tuple[dict, dict[str, Tensor]] | None:
        """The checkpoint's facts and tensors, or None where it is missing, damaged or another computation's."""
        try:
            with safe_open(self.path, framework="pt") as file:
                content = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            sound = content["sha256"] == _digest(content["facts"], tensors)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            print(f"{self.path} is damaged; training starts from the beginning", flush=True)
            return None
        facts = json.loads(content["facts"])
        return (facts, tensors) if facts["fingerprint"] == self._fingerprint else None
