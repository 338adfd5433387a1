"""What the shift is for: telling motion from its opposite."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dynvid import ExitNet
from dynvid.data.synthetic import draw_scene, render

FRAMES, SIZE = 4, 32


def clips(count, seed):
    rng = np.random.default_rng(seed)
    label = torch.arange(count) % 2
    video = np.stack([render(draw_scene(("left", "right")[i % 2], rng), FRAMES, SIZE) for i in range(count)])
    return torch.from_numpy(video).permute(0, 1, 4, 2, 3), label


def accuracy_within_the_pair(net, count=100):
    """On clips and the same clips backwards, which belong to the other class."""
    video, label = clips(count, seed=1)
    video, label = torch.cat([video, video.flip(1)]), torch.cat([label, 1 - label])
    with torch.no_grad():
        return (net.eval()(video)[-1].argmax(-1) == label).float().mean().item()


def train(net, epochs):
    video, label = clips(300, seed=0)
    steps = epochs * len(label) // 20
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(label)).split(20):
            loss = F.cross_entropy(net(video[rows])[-1], label[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return net


def net(shift):
    return ExitNet("test_resnet", num_classes=2, num_frames=FRAMES, shift=shift, input_size=SIZE)


@pytest.mark.slow
def test_frame_averaging_cannot_tell_a_direction_however_it_is_trained():
    """Clip and reversed clip give the same logits, to rounding: one of the two answers is always wrong."""
    trained = train(net("none"), epochs=2)
    video, _ = clips(50, seed=1)
    with torch.no_grad():
        forwards, backwards = trained.eval()(video)[-1], trained(video.flip(1))[-1]
    torch.testing.assert_close(forwards, backwards, atol=1e-4, rtol=1e-4)
    assert accuracy_within_the_pair(trained) == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_online_shift_learns_the_direction():
    assert accuracy_within_the_pair(train(net("online"), epochs=12)) > 0.9
