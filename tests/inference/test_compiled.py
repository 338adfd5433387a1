"""Shifts in place, and compiled segments, against the net that they were made of."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dynvid import DepthExitNet, ExitNet, InputExitNet, ThresholdPolicy, UnifiedExitNet
from dynvid.inference.compiled import CompiledSegment, Island, warm_up
from dynvid.inference.forced import random_clips
from dynvid.inference.pool import Pool, at_once
from dynvid.inference.recipe import packs_bf16, prepare
from dynvid.inference.shifted import Shifted, shift_in_place
from dynvid.nets.shift import Frames, OnlineTemporalShift, running


@settings(deadline=None)
@given(
    fresh=st.lists(st.booleans(), max_size=5),
    goes_on=st.booleans(),
    batch=st.integers(1, 3),
    tokens=st.booleans(),
    data=st.data(),
)
@torch.no_grad()
def test_in_place_equals_the_shift_and_puts_its_input_back(fresh, goes_on, batch, tokens, data):
    fresh = (not goes_on, *fresh)
    layer = nn.Linear(9, 4) if tokens else nn.Conv2d(9, 4, 1)
    x = torch.randn(len(fresh) * batch, 5, 9) if tokens else torch.randn(len(fresh) * batch, 9, 3, 2)
    if not tokens and data.draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    given_before = x.clone()
    shift = OnlineTemporalShift(div=4, dim=-1 if tokens else 1)
    joined = Shifted(shift, layer)
    first = torch.randn(batch, 5, 2) if tokens else torch.randn(batch, 2, 3, 2)
    answers, memories = [], []
    for read, owner in ((nn.Sequential(shift, layer), shift), (joined, joined)):
        frames = Frames(fresh, {id(owner): first.clone()}, remember=True)
        with running(frames):
            answers.append(read(x))
        memories.append(frames.memory[id(owner)])
    assert torch.equal(*answers)
    assert torch.equal(*memories)
    assert torch.equal(x, given_before)


def test_only_layers_that_read_and_give_new_memory_are_joined():
    holder = nn.ModuleDict(
        {
            "conv": nn.Sequential(OnlineTemporalShift(), nn.Conv2d(8, 8, 1)),
            "identity": nn.Sequential(OnlineTemporalShift(), nn.Identity()),
            "norm": nn.Sequential(nn.LayerNorm(8), OnlineTemporalShift(dim=-1)),
        }
    )
    shift_in_place(holder)
    assert [type(holder[name]) for name in holder] == [Shifted, nn.Sequential, nn.Sequential]


@pytest.fixture
def eager(monkeypatch):
    """Islands without a compiler: what they compute can be checked fast."""
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "pvt_v2_b0", "mobilenetv2_035"])
@torch.no_grad()
def test_islands_answer_as_the_net(eager, backbone):
    size = 64
    net = UnifiedExitNet(backbone, num_classes=5, num_frames=4, input_size=size).eval()
    fast, recipe = prepare(net, "compile", "float32", "cpu")
    assert any(isinstance(module, Island) for module in fast.modules())
    video = torch.randint(0, 256, (1, 4, 3, size, size), dtype=torch.uint8)
    stream = copy.deepcopy(fast).stream(video)
    torch.testing.assert_close(torch.stack([stream.advance() for _ in net.route]), net(video), rtol=1e-4, atol=1e-5)
    assert fast.gmacs == net.gmacs
    assert str(recipe).endswith("channels-last, compiled")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "shift", "precision"),
    [
        (DepthExitNet, "online", "float32"),
        (InputExitNet, "online", "float32"),
        (UnifiedExitNet, "online", "float32"),
        (UnifiedExitNet, "online", "bfloat16"),
        (UnifiedExitNet, "none", "float32"),
    ],
)
@torch.no_grad()
def test_compiled_nets_answer_as_the_net(cls, shift, precision):
    net = cls("test_resnet", num_classes=5, num_frames=4, input_size=48, shift=shift).eval()
    expected, _ = prepare(net, "default", precision, "cpu")
    if precision == "bfloat16" and not packs_bf16():
        with pytest.raises(ValueError, match="this processor cannot run compiled nets in bfloat16: take float32"):
            prepare(net, "compile", precision, "cpu")
        return
    fast, _ = prepare(net, "compile", precision, "cpu")
    close = {"rtol": 1e-4, "atol": 1e-5} if precision == "float32" else {"rtol": 0.02, "atol": 0.005}
    policy = ThresholdPolicy(thresholds=[0.22] * len(net.route))
    torch._dynamo.utils.counters.clear()
    assert warm_up(fast, [1, 2]) > 0
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs <= 2 * len(net.segments)  # one for any number of rows, one for a single row
    for batch in (1, 2, 3):
        video = torch.randint(0, 256, (batch, 4, 3, 48, 48), dtype=torch.uint8)
        stream = fast.stream(video)
        torch.testing.assert_close(torch.stack([stream.advance() for _ in net.route]), expected(video), **close)
        torch.testing.assert_close(fast(video), expected(video), **close)
        if precision == "float32":
            assert torch.equal(fast.predict(video, policy).label, expected.predict(video, policy).label)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs  # and nothing was compiled again


@pytest.mark.slow
@torch.no_grad()
def test_the_activation_behind_a_shifted_convolution_is_fused():
    """ResNets end their branches' first layer with a ReLU, which must not cost a pass of its own."""
    net = ExitNet("test_resnet", num_classes=5, num_frames=2, input_size=48).eval()
    fast, _ = prepare(net, "compile", "float32", "cpu")
    asked = []
    for segment in fast.segments:
        assert isinstance(segment, CompiledSegment)
        for island in segment.islands:
            run = island.run
            island.run = lambda x, activation, run=run: (asked.append(activation), run(x, activation))[1]
    video = torch.randint(0, 256, (1, 2, 3, 48, 48), dtype=torch.uint8)
    torch.testing.assert_close(fast(video), net(video), rtol=1e-4, atol=1e-5)
    assert asked
    assert set(asked) == {"relu"}


def test_what_cannot_be_compiled_is_named(monkeypatch):
    class Printing(nn.Module):
        def forward(self, x):
            torch._dynamo.graph_break()
            return x

    with pytest.raises(Exception, match="use optimize='default'"):
        CompiledSegment(Printing())(torch.zeros(2, 3))


@pytest.mark.slow
def test_the_pool_runs_a_compiled_net(scramble_net):
    net = scramble_net(UnifiedExitNet, input_size=32)
    fast, _ = prepare(net, "compile", "float32", "cpu")
    clips = random_clips(net, 5, distinct=5)
    policy = ThresholdPolicy(len(net.route))

    def walk(one):
        return list(Pool(one, policy, 2, at_once).run([partial(lambda clip: clip, clip) for clip in clips]))

    for found, expected in zip(walk(fast), walk(net), strict=True):
        assert [answer.label for answer in found] == [answer.label for answer in expected]
        assert [answer.probability for answer in found] == pytest.approx([a.probability for a in expected], abs=1e-4)
