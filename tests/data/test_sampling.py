import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynvid.data import cheap_indices, clip_indices, segment_indices


@given(length=st.integers(1, 10**6), num_frames=st.integers(1, 64), seed=st.none() | st.integers(0, 2**31))
def test_sorted_in_range_one_per_segment(length: int, num_frames: int, seed: int | None) -> None:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    indices = segment_indices(length, num_frames, generator)
    assert indices.dtype == torch.int64
    assert indices.shape == (num_frames,)
    for k, index in enumerate(indices.tolist()):
        assert 0 <= index < length
        # Frame i covers [i, i + 1): it must overlap segment k.
        assert index * num_frames < (k + 1) * length
        assert (index + 1) * num_frames > k * length
    assert indices.tolist() == sorted(indices.tolist())


@given(length=st.integers(1, 10**5), num_frames=st.integers(1, 64))
def test_centres(length: int, num_frames: int) -> None:
    exact = [(2 * k + 1) * length // (2 * num_frames) for k in range(num_frames)]
    assert segment_indices(length, num_frames).tolist() == exact


def test_a_generator_reaches_every_frame_and_repeats_under_a_seed() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([segment_indices(12, 3, generator) for _ in range(300)])
    for k in range(3):
        counts = torch.bincount(draws[:, k], minlength=12)[4 * k : 4 * k + 4]
        assert counts.sum() == 300
        assert counts.min() > 45  # 75 expected of each
    again = segment_indices(12, 3, torch.Generator().manual_seed(0))
    assert torch.equal(again, draws[0])


@pytest.mark.parametrize(("length", "num_frames"), [(0, 4), (4, 0), (-1, 4)])
def test_nothing_to_take(length: int, num_frames: int) -> None:
    with pytest.raises(ValueError, match="cannot take"):
        segment_indices(length, num_frames)


@given(length=st.integers(1, 10**5), num_frames=st.integers(1, 32), num_clips=st.integers(1, 12))
def test_clips(length: int, num_frames: int, num_clips: int) -> None:
    clips = clip_indices(length, num_frames, num_clips)
    assert clips.shape == (num_clips, num_frames)
    assert 0 <= clips.min() <= clips.max() < length
    # Read segment by segment, the clips go forwards: they interleave.
    flat = clips.T.flatten().tolist()
    assert flat == sorted(flat)
    if length >= num_clips * num_frames:
        assert len(set(flat)) == len(flat)
    assert torch.equal(clip_indices(length, num_frames, 1)[0], segment_indices(length, num_frames))


def test_no_clips() -> None:
    with pytest.raises(ValueError, match="cannot take 0 clips"):
        clip_indices(10, 2, 0)


@given(costs=st.lists(st.integers(0, 5), min_size=1, max_size=80), num_frames=st.integers(1, 20))
def test_cheap_frames(costs: list[int], num_frames: int) -> None:
    indices, centres = cheap_indices(costs, num_frames).tolist(), segment_indices(len(costs), num_frames).tolist()
    assert indices == sorted(indices)
    if len(costs) < num_frames:
        assert indices == centres
        return
    assert len(set(indices)) == num_frames
    bounds = [k * len(costs) // num_frames for k in range(num_frames + 1)]
    for index, centre, start, stop in zip(indices, centres, bounds, bounds[1:], strict=False):
        assert start <= index < stop
        assert (costs[index], abs(index - centre)) == min((costs[i], abs(i - centre)) for i in range(start, stop))


@given(length=st.integers(1, 300), num_frames=st.integers(1, 32))
def test_cheap_frames_are_drawn_in_training(length: int, num_frames: int) -> None:
    """Each is a frame at some position in [0, 1) of its segment."""
    for k, index in enumerate(cheap_indices(range(length), num_frames).tolist()):
        assert index * num_frames < (k + 1) * length
        assert (index + 1) * num_frames > k * length


def test_frames_of_one_cost_give_the_centres() -> None:
    assert torch.equal(cheap_indices(torch.ones(37), 16), segment_indices(37, 16))


def test_nothing_cheap_to_take() -> None:
    with pytest.raises(ValueError, match="cannot take"):
        cheap_indices([], 4)
