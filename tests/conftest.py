import os
import signal
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import nn

# What a shell starts in the background ignores Ctrl-C, and so would the processes to which tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    folder = os.environ.get("DYNVID_REAL_DATA")
    if not folder:
        pytest.skip("needs real videos: set DYNVID_REAL_DATA to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def write_noise():
    """Writes a clip of coarse noise, 64 x 48: of brightness `most` at most, a key frame every `gop` frames."""

    def write(path, seed, frames=24, gop=6, codec="libx264", most=256):
        images = np.random.default_rng(seed).integers(0, most, (frames, 6, 8, 3), np.uint8)
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25, options={"g": str(gop)})
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for image in images:
                frame = np.repeat(np.repeat(image, 8, 0), 8, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        return path

    return write


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
