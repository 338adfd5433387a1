"""The shifts against plain loops over frames, and against `torch.cat` of slices with its gradients."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dynvid.nets.shift import Frames, OnlineTemporalShift, TemporalShift, insert_shift, running, shift_frames


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


def cat_online(x, first, fresh, dim, fold):
    """The online shift as `torch.cat` of slices: (n * B, ...)."""
    batch = len(x) // len(fresh)
    shifted, rest = x.narrow(dim, 0, fold), x.narrow(dim, fold, x.shape[dim] - fold)
    earlier = []
    for begin, end in itertools.pairwise([0, *(t for t in range(1, len(fresh)) if fresh[t]), len(fresh)]):
        earlier.append(torch.zeros_like(shifted[:batch]) if fresh[begin] else first)
        if end - begin > 1:
            earlier.append(shifted[begin * batch : (end - 1) * batch])
    return torch.cat([torch.cat(earlier), rest], dim), shifted[-batch:].clone()


def cat_tsm(x, count, dim, fold):
    batch = len(x) // count
    from_next, from_previous = x.narrow(dim, 0, fold), x.narrow(dim, fold, fold)
    zeros = torch.zeros_like(from_next[:batch])
    parts = [torch.cat([from_next[batch:], zeros]), torch.cat([zeros, from_previous[:-batch]])]
    return torch.cat([*parts, x.narrow(dim, 2 * fold, x.shape[dim] - 2 * fold)], dim)


# How activations lie: the shape of one frame of one video, the dimension of the channels, and how x is stored.
LAYOUTS = {
    "images": ((9, 2, 3), 1, lambda x: x.contiguous()),
    "channels-last": ((9, 2, 3), 1, lambda x: x.contiguous(memory_format=torch.channels_last)),
    "permuted": ((9, 2, 3), 1, lambda x: x.transpose(2, 3).contiguous().transpose(2, 3)),
    "of-more-channels": ((9, 2, 3), 1, lambda x: torch.cat([x, x], 1)[:, :9]),
    "nhwc": ((2, 3, 9), -1, lambda x: x.contiguous()),
    "tokens": ((4, 9), -1, lambda x: x.contiguous()),
    "permuted-tokens": ((4, 9), -1, lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)),
}


@st.composite
def cases(draw):
    """x, what the frame before hands on, which frames are fresh, the dimension of the channels, div."""
    shape, dim, lay = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    fresh, batch = tuple(draw(st.lists(st.booleans(), min_size=1, max_size=6))), draw(st.integers(1, 3))
    div = draw(st.sampled_from([2, 4, 8, 16]))  # 16: nothing is shifted
    torch.manual_seed(draw(st.integers(0, 99)))
    x = lay(torch.randn(len(fresh) * batch, *shape)).to(dtype)
    first = None if fresh[0] else torch.randn(batch, *shape).to(dtype).narrow(dim, 0, 9 // div).clone()
    return x, first, fresh, dim, div


def leaves(*tensors):
    return [None if t is None else t.detach().clone().requires_grad_() for t in tensors]


@settings(deadline=None, max_examples=200)
@given(case=cases(), remember=st.booleans(), inference=st.booleans())
def test_online_shift_equals_cat_of_slices(case, remember, inference):
    """Values, what is handed on, and all gradients, to the bit."""
    x, first, fresh, dim, div = case
    shift = OnlineTemporalShift(div, dim)
    with torch.inference_mode(inference):
        memory = {} if first is None else {id(shift): first}
        with running(Frames(fresh, memory, remember)):
            y = shift(x)
        expected, last = cat_online(x, first, fresh, dim, 9 // div)
    assert torch.equal(y, expected)
    assert y.dtype == x.dtype
    assert y.stride() == torch.empty_like(x).stride()
    if remember:
        assert torch.equal(memory[id(shift)], last)

    weight, of_last = torch.randn_like(x), torch.randn_like(last)
    found, wanted = leaves(x, first), leaves(x, first)
    memory = {id(shift): found[1]}
    with running(Frames(fresh, memory, remember)):
        y = shift(found[0])
    expected, last = cat_online(wanted[0], wanted[1], fresh, dim, 9 // div)
    for out, handed_on in ((y, memory[id(shift)]), (expected, last)):
        loss = (out * weight).sum()
        (loss + (handed_on * of_last).sum() if remember else loss).backward()
    for a, b in zip(found, wanted, strict=True):
        assert a is None or torch.equal(a.grad, b.grad)


@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_bidirectional_shift_equals_cat_of_slices(case):
    x, _, fresh, dim, div = case
    (a,), (b,) = leaves(x), leaves(x)
    with running(Frames(fresh)):
        y = TemporalShift(div, dim)(a)
    expected = cat_tsm(b, len(fresh), dim, 9 // div)
    assert torch.equal(y, expected)
    weight = torch.randn_like(x)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    assert torch.equal(a.grad, b.grad)


ONLINE, TSM = ((0, 2, 1),), ((0, 2, -1), (2, 2, 1))


@pytest.mark.parametrize(
    ("fresh", "goes_on", "moves"),
    [
        ((True, False, False), False, ONLINE),
        ((False, False, True), True, ONLINE),
        ((False,), True, ONLINE),
        ((True, False, False), False, TSM),
    ],
)
def test_gradients_of_the_shift_and_theirs(fresh, goes_on, moves):
    x = torch.randn(len(fresh) * 2, 5, 2, 1, dtype=torch.float64, requires_grad=True)
    first = torch.randn(2, 2, 2, 1, dtype=torch.float64, requires_grad=True) if goes_on else None
    inputs = (x, first, fresh, 1, moves)
    assert torch.autograd.gradcheck(shift_frames, inputs, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(shift_frames, inputs)


def test_the_shift_under_function_transforms_and_on_meta():
    x = torch.randn(5, 6, 8, 2, 2)  # five samples of three frames of two videos
    fresh = (True, False, True)

    def squared(y):
        return shift_frames(y, None, fresh, 1, ONLINE).pow(3).sum()

    expected = torch.stack([torch.autograd.functional.jacobian(squared, y) for y in x])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(squared))(x), expected)
    _, tangent = torch.func.jvp(lambda y: shift_frames(y, None, fresh, 1, ONLINE), (x[0],), (x[1],))
    assert torch.equal(tangent, shift_frames(x[1], None, fresh, 1, ONLINE))
    assert shift_frames(x[0].to("meta"), None, fresh, 1, ONLINE).shape == x[0].shape


def test_rows_that_are_no_frames_are_refused():
    """Memory of one video must not spread over all of them, nor frames be counted wrong."""
    with pytest.raises(RuntimeError):
        shift_frames(torch.zeros(7, 8), None, (True, False), 1, ONLINE)
    with pytest.raises(RuntimeError):
        shift_frames(torch.zeros(6, 8), torch.ones(1, 2), (False, False), 1, ONLINE)


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
