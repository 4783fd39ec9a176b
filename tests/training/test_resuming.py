"""Training that was stopped goes on to the same bytes, and a checkpoint that is damaged or another computation's is
not used."""

import errno
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from hostile import Killed
from prunus import channels, networks
from prunus import masks as masking
from prunus.methods.oto import HalfSpace, Settings
from prunus.run.record import Obeys, Recorder
from prunus.study import layout
from prunus.training import resuming
from prunus.training.loop import train
from prunus.training.resuming import Resume, fingerprint
from prunus.training.stopping import FixedEpochs, FlowSettings, FlowStop, Plateau
from small_data import learnable_dataset
from small_training import SGD

CPU = torch.device("cpu")
RECORD = layout.record("seed0", "sap", "iteration-1")
FILE = layout.unfinished(RECORD) / layout.CHECKPOINT


class Stopping:
    """A stop rule whose question after epoch ``at`` of those trained is never answered: it is trained, and lost."""

    def __init__(self, rule, at):
        self.rule, self.at = rule, at
        self.max_epochs, self.epsilon = rule.max_epochs, rule.epsilon

    def after_epoch(self, epoch, network, accuracies):
        if len(accuracies) == self.at:
            raise Killed
        return self.rule.after_epoch(epoch, network, accuracies)


class Saving(Resume):
    """Dies as soon as the checkpoint after epoch ``at`` is written."""

    at = None

    def save(self, parts, history, taken, kept):
        super().save(parts, history, taken, kept)
        if len(history) == self.at:
            raise Killed


@pytest.fixture
def dataset():
    return learnable_dataset()


def convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(180, 3)
    )


def with_dropout():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Dropout(0.4), nn.Linear(20, 3))


def flow_stop(measure, **changes):
    settings = dict(epsilon=0.0, metric="l2", relative=False, every=1, max_epochs=4, reference_quirks=False)
    return FlowStop(measure, torch.tensor([1.0, 2.0]), FlowSettings(**settings | changes))


def norms(network):
    return torch.stack([network[0].weight.detach().norm(), network[-1].weight.detach().norm()])


def stale(network):
    return torch.stack([network[0].weight.grad.norm(), network[-1].weight.grad.norm()])


@dataclass
class Case:
    """A training: 5 steps an epoch."""

    build: object = convolutions
    stop: object = FixedEpochs(4)
    epochs: int = 4
    oto: str | None = None
    penalty: float = 0.3
    memory_format: torch.memory_format = torch.contiguous_format
    sgd: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    augment: str = "none"

    def run(self, dataset, drawn_from, resume=None, stop_at=None):
        """Everything a training comes to, as bytes and text that can be compared."""
        torch.manual_seed(drawn_from)
        network = self.build().to(memory_format=self.memory_format)
        generator = torch.Generator().manual_seed(3)
        weights = masking.prunable(network)
        masks = {name: torch.rand(weight.shape, generator=generator) < 0.7 for name, weight in weights.items()}
        options = dict(self.options)
        if self.oto:
            masks, groups = masking.ones(network), channels.groups(network, dataset.shape)
            settings = Settings(
                form=self.oto,
                fraction=0.5,
                penalty=self.penalty,
                epsilon=0.9,
                warmup_epochs=1,
                epochs=4,
                rewind="trained",
            )
            options["sparsifier"] = HalfSpace(network, groups, masks, settings)
        recorder = Recorder(RECORD, device=CPU, threads=1)
        outcome = train(
            network,
            masks,
            dataset,
            SGD.model_copy(update=self.sgd),
            self.augment,
            Stopping(self.stop, stop_at),
            seed=1,
            clock=recorder.clock,
            label="test",
            resume=resume and resume(recorder, []),
            **options,
        )
        end = {"network": network.state_dict(), "kept": outcome.kept or {}}
        if self.oto:
            end["masks"] = options["sparsifier"].masks()
        content = {
            (part, name): tensor.contiguous().numpy().tobytes()
            for part, state in end.items()
            for name, tensor in state.items()
        }
        strides = [weight.stride() for weight in network.parameters()]
        return content, repr(outcome.history), outcome.reason, strides


CASES = {
    "plain": Case(),
    "clipped, cosine": Case(sgd={"clip_norm": 0.1, "schedule": "cosine"}),
    "no momentum": Case(sgd={"momentum": 0.0, "nesterov": False}),
    "flip_crop": Case(augment="flip_crop"),
    "channels_last": Case(memory_format=torch.channels_last),
    "bfloat16": Case(options={"precision": torch.bfloat16}),
    "dropout": Case(with_dropout),
    "vit": Case(lambda: networks.build("vit", 1, 8, 3)),
    "warm-up in epoch 1": Case(options={"keep_after": 3}),
    "warm-up between epochs": Case(options={"keep_after": 10}),
    "warm-up in epoch 3": Case(options={"keep_after": 12}),
    "warm-up at the end": Case(options={"keep_after": 20}),
    "late, whole epochs": Case(epochs=3, options={"start": 5}, augment="flip_crop"),
    "late, within an epoch": Case(epochs=3, options={"start": 8}, sgd={"schedule": "cosine"}),
    "late, plateau": Case(stop=Plateau(2, 12), sgd={"learning_rate": 0.001}, options={"start": 11}),
    "late dhspg": Case(lambda: networks.build("lenet5", 1, 8, 3), epochs=3, oto="dhspg", options={"start": 8}),
    "plateau": Case(stop=Plateau(2, 12), sgd={"learning_rate": 0.001}),
    "flow": Case(stop=flow_stop(norms, every=3, epsilon=1e9, max_epochs=9), epochs=3),
    "flow to the cap": Case(stop=flow_stop(norms)),
    "stale gradient": Case(stop=flow_stop(stale)),
    "hspg": Case(lambda: networks.build("lenet5", 1, 8, 3), oto="hspg"),
    "dhspg": Case(lambda: networks.build("lenet5", 1, 8, 3), oto="dhspg"),
    "dhspg, zeroed at its last step": Case(
        lambda: networks.build("lenet5", 1, 8, 3), stop=flow_stop(norms), oto="dhspg", penalty=1e-4
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_stopped_in_and_after_every_epoch_it_ends_with_the_same_bytes(name, folder, dataset, capsys):
    case = CASES[name]
    undisturbed = case.run(dataset, 5)
    assert undisturbed[1].count("train_loss") == case.epochs
    for epoch in range(1, case.epochs):
        for resume, stop_at in ((Resume, epoch), (type("At", (Saving,), {"at": epoch}), None)):
            with pytest.raises(Killed):
                case.run(dataset, 5 if epoch == 1 else 7, resume, stop_at)  # what it was drawn from matters no more
    with pytest.raises(Killed):
        case.run(dataset, 7, Resume, case.epochs)
    capsys.readouterr()
    assert case.run(dataset, 7, Resume) == undisturbed
    printed = capsys.readouterr().out
    left = case.stop.max_epochs - case.options.get("start", 0) // 5
    assert printed.startswith(f"test: goes on after epoch {case.epochs - 1} of {left}\n")
    assert printed.count("train") == 0 and printed.count("loss") == 1


def start(dataset, case=None, at=2):
    """Leave a checkpoint after epoch ``at``."""
    with pytest.raises(Killed):
        (case or Case()).run(dataset, 5, type("At", (Saving,), {"at": at}))


def test_seconds_of_epochs_that_count_are_booked_and_where_it_went_on_is_recorded(folder, dataset):
    start(dataset, at=1)
    start(dataset, at=3)
    with safe_open(FILE, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert facts["resumed_after_epochs"] == [1]
    assert set(facts["seconds"]) == {"train", "evaluation", "flow", "checkpoint"}
    recorder = Recorder(RECORD, device=CPU, threads=1)
    with recorder:
        recorder.clock.seconds["prune"] = 5.0
        Resume(recorder, [])
    record = json.loads(RECORD.read_text())
    assert record["resumed_after_epochs"] == [1, 3]
    total = record["seconds"].pop("total")
    assert record["seconds"] == {"prune": 5.0, **facts["seconds"]}
    assert total > facts["total"] > sum(facts["seconds"].values())
    assert not FILE.parent.exists()


def test_a_record_of_an_undisturbed_run_says_so(folder):
    with Recorder(RECORD, device=CPU, threads=1) as recorder:
        Resume(recorder, [])
    assert json.loads(RECORD.read_text())["resumed_after_epochs"] == []


def test_what_decides_the_numbers_is_in_the_fingerprint(folder, monkeypatch):
    (folder / "input").write_text("one")
    (folder / "stage.py").write_text("x = 1")

    def found(record=RECORD, epochs=3, threads=1, seed=0):
        params = SimpleNamespace(training=SimpleNamespace(epochs=epochs))
        obeys = Obeys(folder / "stage.py", ["training.epochs"], params)
        return fingerprint(
            Recorder(record, CPU, threads, {"order": seed}, obeys=obeys), [Path("input"), Path("absent")]
        )

    seen = [found(), found(layout.record("seed1", "dense")), found(epochs=4), found(threads=2), found(seed=1)]
    assert found() == seen[0]
    for name, value in (("versions", {"torch": "0"}), ("processor", "another")):
        with monkeypatch.context() as patch:
            patch.setattr(resuming, name, lambda value=value: value)
            seen.append(found())
    (folder / "input").write_text("two")
    seen.append(found())
    (folder / "absent").touch()
    seen.append(found())
    (folder / "stage.py").write_text("x = 2")
    seen.append(found())
    assert len(set(seen)) == len(seen)


def test_another_computations_checkpoint_is_replaced_without_a_word(folder, dataset, monkeypatch, capsys):
    undisturbed = Case().run(dataset, 5)
    start(dataset)
    monkeypatch.setattr(resuming, "processor", lambda: "another")
    capsys.readouterr()
    assert Case().run(dataset, 5, Resume) == undisturbed
    printed = capsys.readouterr().out
    assert "goes on" not in printed and "damaged" not in printed and printed.count("loss") == 4


def test_truncated_or_with_a_flipped_bit_it_is_noticed(folder, dataset, monkeypatch, capsys):
    start(dataset)
    whole, chance = FILE.read_bytes(), random.Random(0)
    monkeypatch.setattr(resuming, "fingerprint", lambda *arguments: facts["fingerprint"])
    with safe_open(FILE, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    capsys.readouterr()
    header = 8 + int.from_bytes(whole[:8], "little")
    text = len(whole[:header].rstrip(b" "))
    places = [*range(8), *chance.sample(range(8, text), 300), *chance.sample(range(header, len(whole)), 99)]
    flips = [1 << chance.randrange(8) for _ in places]
    damaged = [whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :] for at, flip in zip(places, flips, strict=True)]
    damaged += [whole[:size] for size in (0, 1, 8, 9, header - 1, header, header + 1, len(whole) // 2, len(whole) - 1)]
    damaged += [whole + b"\0", bytes(len(whole))]
    for content in damaged:
        FILE.write_bytes(content)
        recorder = Recorder(RECORD, device=CPU, threads=1)
        resume = Resume(recorder, [])
        assert resume.restore({}) is None and not resume.finished and not recorder.clock.seconds
        assert capsys.readouterr().out == f"{FILE} is damaged; training starts from the beginning\n"
    FILE.write_bytes(whole)
    assert Resume(Recorder(RECORD, device=CPU, threads=1), []).restore({}) is not None


def test_a_damaged_checkpoint_never_makes_other_bytes(folder, dataset, capsys):
    undisturbed = Case().run(dataset, 5)
    start(dataset)
    content = bytearray(FILE.read_bytes())
    content[-1] ^= 1
    FILE.write_bytes(content)
    assert Case().run(dataset, 5, Resume) == undisturbed
    assert capsys.readouterr().out.count("is damaged; training starts from the beginning") == 1


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(folder, dataset, monkeypatch, capsys):
    undisturbed = Case().run(dataset, 5)
    start(dataset)
    before = FILE.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(resuming, "save_file", full)
    assert Case().run(dataset, 5, Resume) == undisturbed
    assert "cannot be written ([Errno 28] No space left on device)" in capsys.readouterr().out
    assert FILE.read_bytes() == before and [path.name for path in FILE.parent.iterdir()] == [FILE.name]
