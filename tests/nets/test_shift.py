"""The shifts against plain loops over frames."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dynvid.nets.shift import Frames, OnlineTemporalShift, TemporalShift, insert_shift, running


def loop_online(x, fresh, div):
    """x (n, B, C, H, W)."""
    out, fold = x.clone(), x.shape[2] // div
    for t in range(len(x)):
        out[t, :, :fold] = 0 if fresh[t] else x[t - 1, :, :fold]
    return out


def loop_tsm(x, div):
    out, fold = x.clone(), x.shape[2] // div
    for t in range(len(x)):
        out[t, :, :fold] = x[t + 1, :, :fold] if t + 1 < len(x) else 0
        out[t, :, fold : 2 * fold] = x[t - 1, :, fold : 2 * fold] if t else 0
    return out


@settings(deadline=None)
@given(
    fresh=st.lists(st.booleans(), max_size=6),
    batch=st.integers(1, 3),
    cut=st.integers(1, 7),
    div=st.sampled_from([2, 4, 8]),
)
def test_online_shift_equals_a_loop_and_goes_on_after_a_cut(fresh, batch, cut, div):
    fresh = (True, *fresh)
    cut = min(cut, len(fresh))
    x = torch.randn(len(fresh), batch, 9, 2, 3)
    shift, memory = OnlineTemporalShift(div), {}
    with running(Frames(fresh[:cut], memory, remember=True)):
        parts = [shift(x[:cut].flatten(0, 1))]
    if cut < len(fresh):
        with running(Frames(fresh[cut:], memory)):
            parts.append(shift(x[cut:].flatten(0, 1)))
    assert torch.equal(torch.cat(parts), loop_online(x, fresh, div).flatten(0, 1))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_bidirectional_shift_equals_tsm(frames):
    x = torch.randn(frames, 2, 16, 2, 2)
    with running(Frames((True,) + (False,) * (frames - 1))):
        assert torch.equal(TemporalShift()(x.flatten(0, 1)), loop_tsm(x, 8).flatten(0, 1))


def test_channels_last_is_kept():
    x = torch.randn(6, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    with running(Frames((True, False, True))):
        assert OnlineTemporalShift()(x).is_contiguous(memory_format=torch.channels_last)


def test_memory_does_not_keep_the_activations_alive():
    shift, memory = OnlineTemporalShift(), {}
    with running(Frames((True,), memory, remember=True)):
        shift(torch.randn(2, 16, 4, 4))
    (kept,) = memory.values()
    assert kept.untyped_storage().nbytes() == 2 * 2 * 4 * 4 * 4


def test_a_shift_outside_a_net_says_so():
    with pytest.raises(RuntimeError, match="inside an ExitNet only"):
        OnlineTemporalShift()(torch.zeros(1, 8, 1, 1))


def test_the_identity_path_is_not_shifted():
    import timm

    block = timm.create_model("test_resnet").layer1[0].eval()
    nn.init.zeros_(block.bn2.weight)  # the branch adds nothing
    nn.init.zeros_(block.bn2.bias)
    x = torch.randn(3, 32, 4, 4)
    plain = block(x)
    insert_shift(nn.ModuleList([block]), "online", 8)
    with running(Frames((True, False, False))):
        torch.testing.assert_close(block(x), plain)
