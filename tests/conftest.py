import os
from pathlib import Path

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("DYNVID_REAL_DATA")
    if not folder:
        pytest.skip("needs real videos: set DYNVID_REAL_DATA to their folder")
    return Path(folder)


@torch.no_grad()
def scramble(net: nn.Module) -> nn.Module:
    """Random weights and batch-norm statistics: fresh nets have zero residual branches, which hide mistakes."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.0)
            module.bias.normal_(0, 0.1)
    return net.eval()


@pytest.fixture(scope="session", name="scramble")
def scramble_fixture():
    return scramble


@pytest.fixture(scope="session")
def scramble_net():
    """A tiny net of the given class with random statistics: 6 frames, 5 classes."""

    def make(cls, **arguments):
        return scramble(cls("test_resnet", num_classes=5, num_frames=6, **arguments))

    return make
