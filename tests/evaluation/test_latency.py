"""Latency: of eval mode, and within its budget."""

import pytest
import torch
from torch import nn

from prunus.evaluation import latency as latency_module
from prunus.evaluation.latency import MOST_RUNS, latency


def test_latency_is_of_eval_mode_and_tells_networks_apart():
    small, large = nn.Linear(8, 8), nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(8)))
    modes = []
    large.register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    (one, same), _ = latency([small, small], torch.zeros(1, 8))
    (many,), runs = latency([large], torch.zeros(64, 1000))
    assert 1 <= runs <= MOST_RUNS and len(modes) == runs + 1 and not any(modes)
    assert many > one > 0 and same > 0


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only where a test's network says so; ``clock[0]`` is what it shows."""
    now = [0.0]
    monkeypatch.setattr(latency_module.time, "perf_counter", lambda: now[0])
    return now


class Taking(nn.Module):
    """Answers in the given seconds, one after the other, the last one for ever."""

    def __init__(self, clock, *seconds):
        super().__init__()
        self.clock, self.seconds, self.runs = clock, seconds, 0

    def forward(self, images):
        self.clock[0] += self.seconds[min(self.runs, len(self.seconds) - 1)]
        self.runs += 1


@pytest.mark.parametrize(
    ("budget", "dense", "compact", "expected", "runs"),
    [
        (1.0, [9.0], [3.0], [9.0, 3.0], 1),  # the first round has taken all the time there is, and counts
        (0.0, [0.1], [0.1], [0.1, 0.1], 1),
        (1.0, [0.5, 0.2, 0.4], [0.1], [0.3, 0.1], 2),  # at 0.6 and at 0.9 s there is time for one more round
        (1.0, [0.9, 0.001], [0.0], [0.001, 0.0], MOST_RUNS),
        (10.0, [0.5, 1.0, 3.0, 2.0], [0.5], [2.0, 0.5], 4),
    ],
)
def test_latency_takes_no_longer_than_its_budget_and_a_round(clock, budget, dense, compact, expected, runs):
    networks = [Taking(clock, *dense), Taking(clock, *compact)]
    medians, counted = latency(networks, torch.zeros(1, 8), budget)
    assert medians == pytest.approx(expected) and counted == runs
    assert networks[0].runs == networks[1].runs == (1 if clock[0] >= budget and networks[0].runs == 1 else runs + 1)
    assert clock[0] < budget + max(dense) + max(compact) + 1e-9
