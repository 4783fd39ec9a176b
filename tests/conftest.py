import pytest
import torch
from hypothesis import settings
from torch import nn

settings.register_profile("prunus", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("prunus")


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
