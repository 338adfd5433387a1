"""The forced exits of the benchmarks, on a tiny net."""

import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, "memory", raising=False)
    import memory

    return memory


@pytest.mark.parametrize(("shares", "counts"), [((25, 25, 25, 25), [2, 2, 2, 2]), ((60, 20, 15, 5), [5, 1, 2, 0])])
def test_as_many_videos_leave_at_each_exit_as_were_to(memory, scramble, shares, counts):
    assert memory.leaving(8, shares) == counts
    net = scramble(memory.ExitNet("test_resnet", num_classes=5, num_frames=4, route=[(4, d) for d in (1, 2, 3, 4)]))
    found = net.predict(torch.randint(0, 256, (8, 4, 3, 32, 32), dtype=torch.uint8), memory.Forced(counts))
    assert found.exit.bincount(minlength=4).tolist() == counts
