"""Videos that leave take their rows along and change nothing about how the others lie in memory."""

import pytest
import torch

from dynvid.nets.activations import keep_videos

LAYOUTS = {
    "images": torch.randn(6, 4, 3, 2),
    "channels-last": torch.randn(6, 4, 3, 2).contiguous(memory_format=torch.channels_last),
    "nhwc": torch.randn(6, 3, 2, 4),
    "tokens": torch.randn(6, 5, 4),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_kept_videos_lie_as_before(layout):
    x = LAYOUTS[layout]  # two frames of three videos
    y = keep_videos(x, torch.tensor([0, 2]), 3)
    assert torch.equal(y, x[[0, 2, 3, 5]])
    assert y.stride() == x.stride()
