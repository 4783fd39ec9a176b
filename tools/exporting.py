"""A network as a file that runs without its study: written as safetensors, ONNX or torch.export, read back, checked.

Whatever the format, the network in the file takes images as float32 [N, C, H, W] on the 0..1 scale, any N, and answers
with logits [N, classes]; it normalises the images itself, and resizes them where the study does. Further facts
are in the file as JSON.
"""

import json
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from prunus import networks
from prunus.channels.compact import sizes_from_weights
from prunus.run.errors import StageError
from prunus.run.files import write_atomically

SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2"}
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime")}  # packages beside torch and safetensors
METADATA_KEY = "prunus"
METADATA_FILE = "prunus.json"  # in a .pt2, which holds files
TOLERANCE = 1e-5  # of the largest answer

# Warnings of torch 2.11 about its own export code; a user cannot do anything about them.
_TORCH_WARNINGS = (".*treespec, LeafSpec.* is deprecated", "The given buffer is not writable")


class Deployed(nn.Module):
    """``network`` in eval mode behind its dataset's normalisation: what a file holds.

    ``mean`` and ``std`` float32 [C], of the images on the 0..1 scale.
    """

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


class Reloaded(nn.Module):
    """A module that answers from a file; always in eval mode."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images)


def describe(
    deployed: Deployed,
    network: str,
    pretrained: bool,
    side: int | str,
    shape: tuple[int, int, int],
    classes: tuple[str, ...],
) -> dict:
    """What every exported file says about itself: the contract of its inputs and outputs, and how to build the network.

    Arguments: ``network`` its catalogue name; ``pretrained`` and ``side`` as in params.yaml; ``shape`` of an image as
    the file takes it; ``classes`` the classes' names.
    """
    channels, height, width = shape
    return {
        "input": f"images: float32 [N, {channels}, {height}, {width}] on the 0..1 scale, not normalised",
        "output": f"logits: float32 [N, {len(classes)}]",
        "network": network,
        "pretrained": pretrained,
        "network_side": side,
        "image_shape": list(shape),
        "classes": list(classes),
        "mean": deployed.mean.flatten().tolist(),
        "std": deployed.std.flatten().tolist(),
    }


def check_installed(form: str) -> None:
    """``StageError`` naming the packages that writing and reading the format ``form`` lacks here."""
    missing = [package for package in NEEDED.get(form, ()) if find_spec(package) is None]
    if missing:
        raise StageError(f"--format {form} needs {', '.join(missing)}; `pip install {' '.join(missing)}` installs it")


def load_exported(path: Path | str) -> Deployed:
    """The network of a safetensors file that ``save`` wrote, compacted or not, in eval mode on the CPU.

    Its layers get the sizes of the stored tensors, the only trace of removed channels.
    """
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()[METADATA_KEY])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is not a mapping
    channels, side, _ = about["image_shape"]
    form = (about["network"], channels, side, len(about["classes"]))
    network = networks.build(*form, about["pretrained"], download=False, resize=about.get("network_side", "native"))
    for name, tensor in state.items():
        owner, _, kind = name.rpartition(".")
        layer = network.get_submodule(owner)
        setattr(layer, kind, nn.Parameter(tensor) if isinstance(getattr(layer, kind), nn.Parameter) else tensor)
    sizes_from_weights(network)
    return Deployed(network, torch.tensor(about["mean"]), torch.tensor(about["std"]))


def _program(deployed: Deployed, about: dict) -> torch.export.ExportedProgram:
    # Two images: a batch of one would be taken for a constant.
    images = torch.zeros(2, *about["image_shape"])
    batch = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(deployed, (images,), dynamic_shapes=batch)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # lines of source, with where they lie on this machine
    return program


def _write_safetensors(deployed: Deployed, about: dict, path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in deployed.network.state_dict().items()}
    save_file(state, path, {METADATA_KEY: json.dumps(about)})


def _write_torch_export(deployed: Deployed, about: dict, path: Path) -> None:
    with path.open("wb") as file:
        torch.export.save(_program(deployed, about), file, extra_files={METADATA_FILE: json.dumps(about)})


def _read_torch_export(path: Path, threads: int) -> nn.Module:
    with path.open("rb") as file:
        loaded = torch.export.load(file).module()
    return Reloaded(lambda images: loaded(images))  # wrapped: the module itself refuses ``eval``


def _write_onnx(deployed: Deployed, about: dict, path: Path) -> None:
    names = {"input_names": ["images"], "output_names": ["logits"], "dynamic_shapes": {"images": {0: "batch"}}}
    program = torch.onnx.export(_program(deployed, about), dynamo=True, verbose=False, **names)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the exporter's notes on where each node comes from
    program.model.metadata_props[METADATA_KEY] = json.dumps(about)
    path.write_bytes(program.model_proto.SerializeToString())


def _read_onnx(path: Path, threads: int) -> nn.Module:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Reloaded(lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0]))


_WRITERS = {"safetensors": _write_safetensors, "onnx": _write_onnx, "torch_export": _write_torch_export}
_READERS = {
    "safetensors": lambda path, threads: load_exported(path),
    "onnx": _read_onnx,
    "torch_export": _read_torch_export,
}


def answers(network: nn.Module, images: Tensor, label: str, batch_size: int = 1000) -> Tensor:
    """Logits [N, classes] of a ``Deployed`` or reloaded network for ``images`` uint8 [N, C, H, W], on the CPU."""
    batches = tqdm(images.split(batch_size), label, unit="batch", disable=not sys.stderr.isatty())
    with torch.no_grad():
        return torch.cat([network(batch / 255) for batch in batches])


def save(
    path: Path, form: str, deployed: Deployed, about: dict, images: Tensor, expected: Tensor, threads: int
) -> tuple[nn.Module, Tensor]:
    """Write ``deployed`` to ``path``, and keep the file only if it answers as expected when read back.

    Arguments: ``form`` a key of ``SUFFIXES``; ``about`` what ``describe`` returns, and more; ``images`` uint8
    [N, C, H, W] and the logits ``expected`` for them [N, classes]; ``threads`` of the reader.
    Returns the network read back, which takes images on the 0..1 scale, and its answers [N, classes].
    Raises ``StageError`` where the answers differ by more than ``TOLERANCE`` times the largest, or the file cannot be
    written; neither leaves a file. Answers this close give the same classes, unless two are nearly equal.
    """
    try:
        with write_atomically(path) as partial, warnings.catch_warnings():
            for message in _TORCH_WARNINGS:
                warnings.filterwarnings("ignore", message)
            _WRITERS[form](deployed, about, partial)
            reloaded = _READERS[form](partial, threads)
            reloaded_answers = answers(reloaded, images, f"{form} file")
            error = (reloaded_answers - expected).abs().max().item()
            if not error <= TOLERANCE * max(1.0, expected.abs().max().item()):
                raise StageError(f"{path}: the {form} file answers differently (by {error:.1e}) and was not kept")
    except (OSError, SafetensorError) as error:
        raise StageError(f"{path}: cannot be written ({error})") from None
    return reloaded, reloaded_answers
