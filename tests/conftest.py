import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn

from hostile import Touch
from prunus import masks as masking
from prunus.data.dataset import Dataset, Split
from prunus.pruning.candidates import Candidates
from prunus.sources import published
from prunus.sources.splits import Source

settings.register_profile("prunus", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("prunus")


# Where several processes test (make test): what starts first, as no process should be left alone with it.
LONGEST = ("tests/pipeline", "tests/test_benchmarks.py", "tests/information", "tests/methods")


def pytest_collection_modifyitems(items):
    starts = [next((at for at, start in enumerate(LONGEST) if item.nodeid.startswith(start)), 9) for item in items]
    items[:] = [item for _, _, item in sorted(zip(starts, range(len(items)), items, strict=True))]


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def small_network():
    """Conv, batch norm and two linear layers on 1x8x8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AvgPool2d(4),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


@pytest.fixture
def network(small_network):
    """``small_network`` in float64, its batch norm with parameters and statistics that are not 0 and 1."""
    with torch.no_grad():
        for name, tensor in small_network[1].state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.tensor([0.5, 1.5, 0.8, 2.0]) * (1 if name in ("weight", "running_var") else -0.3))
    return small_network.double()


@pytest.fixture
def candidates_of():
    """A function: what a method is given of a network for 1x8x8 images, dense weights the same turned upside down."""

    def make(network, masks=None):
        images, labels = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8), torch.arange(60) % 3
        data = Dataset({"train": Split(images, labels)}, torch.tensor([0.5]), torch.tensor([0.25]), ("a", "b", "c"))
        dense = {name: tensor.flip(0) if tensor.dim() else tensor for name, tensor in network.state_dict().items()}
        sample = data.normalise(images[:40]), labels[:40]
        return Candidates(network, masks or masking.ones(network), 1, data, 0, lambda point: dense, sample)

    return make


@pytest.fixture(scope="session")
def digits() -> Source:
    """The digits as their reader returns them."""
    return published.read("digits", Path("nowhere"), Path("nowhere"), 0)


@pytest.fixture
def lagging(small_network):
    """Batch norm's running statistics are those of a network whose first layer was 1e18 times smaller: in eval mode
    activations overflow, with the statistics of the batch nothing does."""
    with torch.no_grad():
        small_network[0].weight.mul_(1e18)
        small_network[5].weight.mul_(1e25)
        small_network[7].weight.mul_(1e-25)
    return small_network.eval()


@pytest.fixture
def marker(tmp_path):
    """A file that hostile content would make; the bait itself is tried first."""
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Touch(marker)))
    assert marker.exists()
    marker.unlink()
    return marker


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
