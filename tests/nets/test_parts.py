"""Segments on a few images at a time against segments in one piece."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dynvid import DepthExitNet, ExitNet, UnifiedExitNet
from dynvid.nets import parts
from dynvid.nets.parts import run_in_parts
from dynvid.nets.shift import Frames, OnlineTemporalShift, running

MSDNET = {"num_blocks": 3, "base": 3, "step": 2, "channels": 8, "growth_rate": 4}
SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1, 2, 1)}
BACKBONES = [  # images, lists of images, tokens, (n, H, W, C), both of these in turn
    ("test_resnet", 64, None),
    ("msdnet38", 64, MSDNET),
    ("deit_tiny_patch16_224", 32, {"img_size": 32, "depth": 4, "embed_dim": 48, "num_heads": 3}),
    ("swin_tiny_patch4_window7_224", 64, SWIN),
    ("test_convnext", 64, None),
    ("mobilenetv2_035", 64, None),
]


class Twice(nn.Module):
    """A list of two activations, each behind its own shift, in two layouts."""

    def __init__(self):
        super().__init__()
        self.first, self.second = OnlineTemporalShift(2), OnlineTemporalShift(4)

    def forward(self, x):
        y = self.first(x)
        return [y.contiguous(memory_format=torch.channels_last), self.second(x.flatten(2).transpose(1, 2))]


@settings(deadline=None, max_examples=150)
@given(
    fresh=st.lists(st.booleans(), min_size=1, max_size=7),
    batch=st.integers(1, 9),
    images=st.integers(1, 9),
    remember=st.booleans(),
)
def test_parts_equal_the_whole_and_hand_on_the_same(fresh, batch, images, remember):
    segment, fresh = Twice(), tuple(fresh)
    x = torch.randn(len(fresh) * batch, 8, 3, 2)
    given_memory = {
        id(segment.first): torch.randn(batch, 4, 3, 2),
        id(segment.second): torch.randn(batch, 6, 2),
    }
    sizes = []

    def run(x, frames):
        sizes.append(len(x))
        with running(frames):
            return segment(x)

    memories = [dict(given_memory), dict(given_memory)]
    whole = run(x, Frames(fresh, memories[0], remember))
    sizes.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "IMAGES", images)
        found = run_in_parts(run, x, Frames(fresh, memories[1], remember))
    assert max(sizes) <= images
    assert sum(sizes) == len(x)
    for a, b in zip(found, whole, strict=True):
        assert torch.equal(a, b)
        assert a.stride() == b.stride()
    assert memories[0].keys() == memories[1].keys()
    assert all(torch.equal(memories[0][layer], memories[1][layer]) for layer in memories[0])


@pytest.mark.parametrize(("backbone", "size", "args"), BACKBONES)
def test_every_kind_of_backbone_gives_the_same_in_parts(monkeypatch, scramble, backbone, size, args):
    net = UnifiedExitNet(backbone, num_classes=5, num_frames=8, input_size=size, backbone_args=args, shift_div=4)
    net = scramble(net).double()  # in float32 some kernels round by the number of rows
    video = torch.randint(0, 256, (3, 8, 3, size, size), dtype=torch.uint8)
    alive = [torch.tensor([True, False, True]), *[torch.tensor([True, True])] * (len(net.route) - 1)]

    def walk(images):
        monkeypatch.setattr(parts, "IMAGES", images)
        with torch.no_grad():
            stream, found = net.stream(video), [net(video)]
            for rows in alive:
                found.append(stream.advance())
                stream.keep(rows)
        return found

    for a, b in zip(walk(4), walk(1000), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def count_runs(net, run):
    """How many images each call of the first segment had."""
    images = []
    hook = net.segments[0].register_forward_pre_hook(lambda _, args: images.append(len(args[0])))
    run()
    hook.remove()
    return images


def test_only_inference_on_a_processor_goes_in_parts(scramble_net):
    net = scramble_net(DepthExitNet)
    frames = net.num_frames
    video = torch.randint(0, 256, (4, frames, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert max(count_runs(net, lambda: net(video))) <= parts.IMAGES < 4 * frames
    assert count_runs(net, lambda: net(video)) == [4 * frames]  # with gradients
    net.train()
    with torch.no_grad():
        assert count_runs(net, lambda: net(video)) == [4 * frames]


def test_a_shift_that_looks_ahead_sees_all_frames(monkeypatch, scramble):
    net = scramble(ExitNet("test_resnet", num_classes=5, num_frames=4, shift="bidirectional", shift_div=4))
    video = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8)
    monkeypatch.setattr(parts, "IMAGES", 2)
    with torch.no_grad():
        assert count_runs(net, lambda: net(video)) == [12]


class Waits(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what makes the host wait for a device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return function(*args, **(kwargs or {}))


def test_keep_waits_for_the_device_once(scramble_net):
    net = scramble_net(UnifiedExitNet)
    video = torch.randint(0, 256, (3, net.num_frames, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        stream = net.stream(video)
        for alive in ([True, False, True], [True, True], [False, True]):
            stream.advance()
            with Waits() as waits:
                stream.keep(torch.tensor(alive))
            assert waits.count == 1
